"""train.compile: the same training, the same checkpoints, and one line where there is no compiler."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from kept_graphs import Graphs, kept_graphs
from runs import SMALL, trained
from torch import Tensor, nn

from backdrift.runs.run import Run
from backdrift.solvers import compilation
from backdrift.training import state
from backdrift.training.compilation import compile_network
from backdrift.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("empty_folder")
TRAINING = (*SMALL, "train.log_every=1")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    """The graphs that were compiled. They run as they are, without machine code."""
    with kept_graphs(monkeypatch) as made:
        yield made


def lines(run: Run) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in run.read_metrics()]


def test_a_compiled_training_is_the_same_training(
    graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph serves all steps, whose losses and weights are those of the plain network to rounding.

    The held-out loss on the way evaluates the average, which makes no graph of its own.
    """
    plain = trained(*TRAINING, "train.steps=6")
    assert not graphs
    begun, states = state.TrainingState.start, []

    def start(*arguments: Any) -> state.TrainingState:
        states.append(begun(*arguments))
        return states[-1]

    monkeypatch.setattr(state.TrainingState, "start", start)
    fast = trained(*TRAINING, "train.steps=6", "train.held_out_every=3", "train.compile=true")
    assert len(graphs) == 1
    assert states[0].network._compiled_call_impl is not None and states[0].average._compiled_call_impl is None
    for (step, loss), (other, expected) in zip(lines(fast), lines(plain), strict=True):
        assert step == other and loss == pytest.approx(expected, rel=1e-5)
    for kind in ("model", "ema"):
        found, wanted = (run.latest_checkpoint().weights(kind) for run in (fast, plain))
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)


def test_a_compiled_training_is_resumed_to_the_same_bits(graphs: list[torch.fx.GraphModule]) -> None:
    run = trained(*TRAINING, "train.steps=6", "train.checkpoint_every=3", "train.compile=true")
    whole = run.latest_checkpoint().weights("model")
    shutil.rmtree(run.latest_checkpoint().path)
    again = Run.open(run.path)
    assert again.latest_checkpoint().step == 3
    Trainer(again.config, again.data()).fit(again)
    assert all(torch.equal(value, whole[name]) for name, value in again.latest_checkpoint().weights("model").items())


def test_without_a_compiler_a_line_says_so_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._inductor.exc import InvalidCxxCompiler

        raise InvalidCxxCompiler

    monkeypatch.setattr(compilation, "BACKEND", missing)
    plain = trained(*TRAINING, "train.steps=3")
    capsys.readouterr()
    run = trained(*TRAINING, "train.steps=3", "train.compile=true")
    said = "train.compile: torch.compile found no C++ compiler, expected one on the PATH or in the variable CXX; the "
    assert f"{said}network is trained without a compiler\n" in capsys.readouterr().out
    assert said in (run.path / "log.txt").read_text()
    assert lines(run) == lines(plain)
    torch._dynamo.reset()


def test_a_loss_that_holds_a_derivative_is_trained_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch.compile cannot differentiate twice."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    small = ("data=moons", "train.steps=1", "train.batch=8", "report=false", "train.compile=true")
    trained(*small, "model=energy", "model.network.hidden=8", "model.network.depth=1")
    assert "train.compile: torch.compile makes nothing of a loss that holds a derivative" in capsys.readouterr().out
    torch._dynamo.reset()


class Normalised(nn.Module):
    """A network with buffers that its calls change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def test_the_trial_changes_no_buffer(graphs: list[torch.fx.GraphModule]) -> None:
    network = Normalised()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert compile_network(network, lambda: network(x).square().mean()) is None
    assert int(network.norm.num_batches_tracked or 0) == 0
    assert torch.equal(network.norm.state_dict()["running_mean"], torch.zeros(3))
    assert all(value.grad is None for value in network.parameters()) and len(graphs) == 1


def test_an_error_of_the_loss_is_not_taken_for_one_of_the_compiler(graphs: list[torch.fx.GraphModule]) -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError):
        compile_network(network, lambda: network(torch.zeros(1, 2)) / (1 // 0))
    assert network._compiled_call_impl is None
