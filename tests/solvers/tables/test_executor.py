"""The loop that runs any table gives the right states, at the stated cost in operations and memory."""

import dataclasses
import weakref
from collections import Counter

import pytest
import torch
from counting import Counting
from torch import Tensor

from backdrift.models import GaussianMixture
from backdrift.sde import VE, VP
from backdrift.solvers import (
    CATALOGUE,
    DDIM,
    Adams,
    DPMSolverPP2M,
    Euler,
    EulerMaruyama,
    Heun,
    Noise,
    Row,
    RungeKutta,
    StochasticAdams,
    Table,
    TableSolver,
    UniPC,
    execute,
)
from backdrift.solvers.solver import OnStep

SOLVERS = {name: entry.solver for name, entry in CATALOGUE.items()}
SOLVERS["adams"] = Adams(order=4, corrector=4)  # by default it uses more values with more steps


def double(x: Tensor, t: Tensor) -> Tensor:
    """A model that costs one operation."""
    return x * 0.5


def test_hand_written_loop() -> None:
    """A table with every feature agrees with plain arithmetic, row by row."""
    table = Table(
        (
            Row(0.8, 0.5, (2.0,), at=1.0),
            Row(0.6, 1.0, (0.3, -0.1), at=0.8, slope=-0.7, kind="stage"),
            Row(0.5, 0.9, (0.2, 0.0, 0.4), at=0.6, base=1, noise=0.25),
            Row(0.5, 1.0, (), noise=0.1),
            Row(0.4, -1.5, (1.0, 0.5)),
            Row(0.3, 1.0, ()),
            Row(0.0, 0.0, (1.0,), at=0.3),
        )
    )
    generator = torch.Generator().manual_seed(0)
    x, z1, z2 = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    denoise = lambda x, t: torch.sin(x) * t  # noqa: E731
    a = 0.5 * x + 2.0 * denoise(x, 1.0)
    p1 = denoise(a, 0.8) - 0.7 * a
    b = a + 0.3 * p1 - 0.1 * denoise(x, 1.0)
    p2 = denoise(b, 0.6)
    c = 0.9 * a + 0.2 * p2 + 0.4 * denoise(x, 1.0) + 0.25 * z1
    d = c + 0.1 * z2
    e = -1.5 * d + p2 + 0.5 * p1
    kicks = iter((z1, z2))
    seen: list[float] = []

    def on_step(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t))
        return x

    before = x.clone()
    result = execute(table, denoise, x, lambda: next(kicks), on_step)
    torch.testing.assert_close(result, denoise(e, 0.3), rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before)
    assert seen == [0.8, 0.5, 0.5, 0.4, 0.3, 0.0]


def test_nothing_of_the_callers_is_written_to() -> None:
    """The loop does not write to the start, to the values of the model, which may be its input, or to the noise."""
    constant = torch.ones(3, 2, dtype=torch.float64)
    for solver in SOLVERS.values():
        for model in (lambda x, t: x, lambda x, t: constant):
            x = torch.full((3, 2), 0.5, dtype=torch.float64)
            kept: list[tuple[Tensor, Tensor]] = []

            def noise(kept: list = kept) -> Tensor:
                kept.append((z := torch.randn(3, 2, dtype=torch.float64), z.clone()))
                return kept[-1][0]

            execute(solver.table(VP()), model, x, noise)
            assert (x == 0.5).all()
            assert (constant == 1).all()
            assert all(torch.equal(z, copy) for z, copy in kept)


def test_what_on_step_returns_is_gone_on_from() -> None:
    table = Euler(steps=4).table(VP())
    nowhere = execute(table, lambda x, t: x, torch.ones(1, 1), on_step=lambda x, t: torch.zeros_like(x))
    assert not nowhere.any()


@pytest.mark.parametrize("name", SOLVERS)
def test_operations_per_step_do_not_grow(name: str) -> None:
    """Steps 110 to 1000 cost as many operations each as steps 20 to 110, and copy no number to the CPU."""
    sde, solver = VP(), dataclasses.replace(SOLVERS[name], data_std=0.5)

    def operations(steps: int) -> tuple[Counter[str], int]:
        table = dataclasses.replace(solver, steps=steps).table(sde).numbers()
        with Counting() as counting:
            execute(table, double, torch.zeros(2, 3), lambda: torch.zeros(2, 3))
        return counting.calls, len(table.rows)

    (few, short), (more, middle), (most, long) = (operations(n) for n in (20, 110, 1000))
    host = {"_local_scalar_dense", "item", "is_nonzero", "equal", "_to_copy"}
    assert not host & set(most - few)
    # Operations are counted per row, since Restart repeats some steps and churn adds noise only in some.
    rate, early = (most.total() - more.total()) / (long - middle), (more.total() - few.total()) / (middle - short)
    varying = {"restart", "edm_churn"}
    assert rate == pytest.approx(early, rel=0.1 if name in varying else 1e-12)


@pytest.mark.parametrize(
    ("solver", "operations"),
    [
        (Euler(), 3),  # the model, carry x, and + w D
        (DDIM(), 3),
        (EulerMaruyama(), 5),  # the same, the draw, and + q z
        (DPMSolverPP2M(), 4),
        (Adams(order=3, predict="denoised"), 5),
        (Adams(order=3, predict="noise"), 6),  # the same with slope x
        (Adams(order=4, corrector=4), 8),  # a correction and the next step are one combination of five values
        (UniPC(), 6),  # the same, of four values, in denoised prediction
        (Heun(), 7),  # two evaluations, and combinations of three and of two terms
        (RungeKutta(order=4, predict="denoised"), 4 + 2 + 3 + 3 + 5),
    ],
    ids=str,
)
def test_operations_of_a_step(solver: TableSolver, operations: int) -> None:
    """A step in the middle of a run makes one network call and one fused operation for each term, and nothing else."""

    def total(steps: int) -> int:
        table = dataclasses.replace(solver, steps=steps).table(VP()).numbers()
        with Counting() as counting:
            execute(table, double, torch.zeros(2, 3), lambda: torch.zeros(2, 3))
        return counting.calls.total()

    # The times of all steps come from one unbind, so a step adds no operation for its time.
    assert (total(60) - total(40)) / 20 <= operations


@pytest.mark.parametrize("name", ["adams", "adams_velocity_4", "unipc", "sa_solver", "rk4"])
def test_steps_are_the_same_where_somebody_looks_on(name: str) -> None:
    """Without `on_step` a correction and the step after it are one linear combination, and with it they are two."""
    solver = dataclasses.replace(SOLVERS[name], steps=9)
    model = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double(), 0.1, sde=VP())
    seen: list[Tensor] = []
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kicks = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(on_step: OnStep | None) -> Tensor:
        draws = iter(kicks)
        return execute(solver.table(VP()), model.denoise, x, lambda: next(draws), on_step)

    def keep(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return x

    watched = run(keep)
    assert len(seen) >= 9
    torch.testing.assert_close(run(None), watched, rtol=1e-12, atol=1e-12)


def test_a_mean_of_two_is_one_operation() -> None:
    """If carry + weight = 1, as for DDIM under VE, a step is one call of the model and one `lerp`."""
    table = DDIM(steps=40).table(VE())
    with Counting() as counting:
        execute(table, double, torch.zeros(2, 3))
    assert counting.calls["lerp"] == 40
    assert counting.calls["mul"] == 40  # the model's own


def test_drawing_noise_is_no_host_sync() -> None:
    noise = Noise(0, (4, 3))
    with Counting() as counting:
        for _ in range(400):
            noise()
    assert not {"_local_scalar_dense", "item", "is_nonzero"} & set(counting.calls)


@pytest.mark.parametrize("name", SOLVERS)
def test_memory_does_not_grow_with_steps(name: str) -> None:
    """As many values of the model are in memory at once with 20 steps as with 200."""

    def alive(steps: int) -> int:
        living: set[int] = set()
        most = 0

        def model(x: Tensor, t: Tensor) -> Tensor:
            nonlocal most
            value = x * 0.5
            living.add(id(value))
            weakref.finalize(value, living.discard, id(value))
            most = max(most, len(living))
            return value

        table = dataclasses.replace(SOLVERS[name], steps=steps, data_std=0.5).table(VP())
        execute(table, model, torch.zeros(1, 1), lambda: torch.zeros(1, 1))
        return most

    few, many = alive(20), alive(200)
    assert many <= max(few, 12), (few, many)
    assert many <= 16  # the lags after a Runge-Kutta start of order 4


@pytest.mark.parametrize(
    ("solver", "backend"),
    [
        (DPMSolverPP2M(steps=4), "aot_eager"),
        (Adams(steps=6), "eager"),
        (UniPC(steps=4), "eager"),
        (DDIM(steps=4, eta=1.0), "eager"),
        (StochasticAdams(steps=4), "aot_eager"),
        (Heun(steps=3), "eager"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_whole_loop_compiles(solver: TableSolver, backend: str) -> None:
    """torch.compile of a solve with its model gives one graph without a break, and the same samples."""
    model = GaussianMixture(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), 0.1, sde=VP())
    table = solver.for_model(model).table(model.sde).numbers()
    draws = torch.randn(table.nfe, 5, 2, generator=torch.Generator().manual_seed(1))

    def loop(x: Tensor, draws: Tensor) -> Tensor:
        kicks = iter(draws.unbind())
        return execute(table, model.denoise, x, lambda: next(kicks))

    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    compiled = torch.compile(loop, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x, draws), loop(x, draws), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_times_and_states_have_the_dtype_of_x(dtype: torch.dtype) -> None:
    seen: set[torch.dtype] = set()

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.update((x.dtype, t.dtype))
        assert t.ndim == 0
        return x

    assert execute(DDIM(steps=3).table(VP()), model, torch.zeros(1, 2, dtype=dtype)).dtype == dtype
    assert seen == {dtype}
