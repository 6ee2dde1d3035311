"""What has to be measured on a GPU, section by section, in at most ten minutes.

    python benchmarks/gpu.py                    # on the accelerator that is there
    python benchmarks/gpu.py --quick            # small sizes, to try the script on a CPU

**It has not been run on a GPU yet.** It was tried on a CPU with `--quick`, which shows that each section runs, and no
more. `beside_diffusers` needs diffusers. Fashion-MNIST on a card has a script of its own, `fashion_mnist.py`.

Each section is a process of its own with a time limit. What it prints is written into `benchmarks/results/gpu.md` when
it ends, so that a section that fails or takes too long loses nothing of the others. Where there is a goal a line begins
with "met" or "missed", and with "tried" under `--quick`, whose sizes measure nothing.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers_training
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backdrift.models import MLP, Denoiser, DenoisingLoss, GaussianMixture, UNet
from backdrift.runs.device import device_named
from backdrift.sde import VP
from backdrift.solvers import Adams, Adaptive, Compiled, Noise, log_likelihood, sample

RESULTS = Path(__file__).parent / "results"
QUICK = "BACKDRIFT_GPU_QUICK"
"""The variable by which a section is told to take small sizes."""


PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Operations a second of dense products in bf16, by NVIDIA's data sheets."""


def quick() -> bool:
    return QUICK in os.environ


def card(device: torch.device) -> str:
    """The name of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The median time of a call, after one to warm up."""
    times = []
    for _ in range(1 + (1 if quick() else repeats)):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2]


def goal(met: bool) -> str:
    """The first word of a line that has a goal."""
    return "tried" if quick() else "met" if met else "missed"


@contextmanager
def waits_are_errors(device: torch.device) -> Iterator[None]:
    """Have CUDA raise an error where the host waits for the device. Other devices cannot tell."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def mixture(device: torch.device) -> GaussianMixture:
    """Eight modes on a circle."""
    angle = torch.arange(8) * math.pi / 4
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), 0.1, sde=VP()).to(device)


def large_network() -> nn.Module:
    """A U-Net of more than 30 million parameters for 3x32x32; a small one for `--quick`."""
    torch.manual_seed(0)
    if quick():
        return UNet(channels=3, widths=[8, 16], blocks=1)
    return UNet(channels=3, widths=[160, 320, 320], blocks=2)


def same_samples(device: torch.device) -> None:
    """Samples of a seed on the CPU and on the device, and the bits of the random numbers."""
    here, there = (Noise(0, (1000, 20), device=place)().cpu() for place in ("cpu", device))
    equal = float((here == there).double().mean())
    print(f"{goal(equal > 1 - 1e-6)}: {equal:.8%} of the random numbers are equal in bits")
    for name, solver in (("Adams(20)", Adams(steps=20)), ("Adaptive()", Adaptive())):
        one, other = (sample(mixture(torch.device(place)), solver, (256, 2), seed=0).cpu() for place in ("cpu", device))
        gap = float((one - other).abs().max())
        print(f"{goal(gap < 1e-3)}: {name}: the largest difference of a sample is {gap:.2g}")
    x = sample(mixture(torch.device("cpu")), Adams(steps=20), (256, 2), seed=0)
    one = log_likelihood(mixture(torch.device("cpu")), x).log_prob
    other = log_likelihood(mixture(device), x.to(device)).log_prob.cpu()
    gap = float((one - other).abs().max())
    print(f"{goal(gap < 1e-3)}: log-densities: the largest difference is {gap:.2g} nats")


def waits(device: torch.device) -> None:
    """Whether the host waits in the inner loops: `set_sync_debug_mode("error")` from the first step of a solve on."""
    network = Denoiser(MLP(dim=2, hidden=32), VP(), 0.7).to(device).eval().requires_grad_(False)
    for steps in (4, 8):
        x = torch.randn(64, 2, device=device)
        started = False

        def on_step(x: Tensor, t: Tensor) -> Tensor:
            nonlocal started
            if not started and device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            started = True
            return x

        try:
            sample(network, Adams(steps=steps), x_T=x, on_step=on_step)
            print(f"{goal(True)}: Adams({steps}) waits for nothing after its first step")
        except RuntimeError as error:
            print(f"missed: Adams({steps}) waits: {str(error).splitlines()[0]}")
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    loss, u = DenoisingLoss(), torch.rand(64, dtype=torch.float64, device="cpu").to(device)
    noise, x = torch.randn(64, 2, device=device), torch.randn(64, 2, device=device)
    trained = network.train().requires_grad_(True)
    loss(trained, x, u, noise).mean().backward()
    synchronize(device)
    try:
        with waits_are_errors(device):
            loss(trained, x, u, noise).mean().backward()
        print(f"{goal(True)}: a loss and its backward pass wait for nothing")
    except RuntimeError as error:
        print(f"missed: a loss waits: {str(error).splitlines()[0]}")


def random_numbers(device: torch.device) -> None:
    """The cost of `Noise` beside `torch.randn` of the batch; the goal is at most twice."""
    for shape in ((100, 2), (1000, 2)) if quick() else ((10_000, 2), (100_000, 2), (256, 3, 32, 32)):
        ours = seconds(Noise(0, shape, device=device), device, 20)
        plain = seconds(functools.partial(torch.randn, shape, device=device), device, 20)
        print(f"{goal(ours <= 2 * plain)}: {list(shape)}: {1e3 * ours:.3f} ms, {ours / plain:.2f} times `randn`")


def sampling(device: torch.device) -> None:
    """The loop of a solver beside its network calls, for a large network in bf16; the goal is at most 1.02 times."""
    network = large_network().to(device).eval().requires_grad_(False)
    size = sum(value.numel() for value in network.parameters()) / 1e6
    model = Denoiser(copy.deepcopy(network).to(torch.bfloat16), VP())
    shape, steps = ((2, 3, 16, 16), 4) if quick() else ((256, 3, 32, 32), 20)
    x = torch.randn(shape, device=device)
    half, c = x.to(torch.bfloat16), torch.zeros(len(x), device=device, dtype=torch.bfloat16)

    def calls() -> None:
        for _ in range(steps):
            model.network(half, c)

    with torch.no_grad():
        alone = seconds(calls, device, 3)
        whole = seconds(lambda: sample(model, Adams(steps=steps), x_T=x), device, 3)
    name = f"{size:.1f} M parameters, {list(shape)}, {steps} calls"
    print(f"{goal(whole <= 1.02 * alone)}: {name}: {whole:.3f} s, {whole / alone:.3f} times the network calls")


def compiled(device: torch.device) -> None:
    """The whole loop as one graph (`Compiled`) beside the plain loop, for a small U-Net; the goal is 5 times faster."""
    torch.manual_seed(0)
    network = MLP(dim=2, hidden=32) if quick() else UNet(channels=1, widths=[32, 64], blocks=1)
    model = Denoiser(network, VP()).to(device).eval().requires_grad_(False)
    solver, shape = Adams(steps=3 if quick() else 10), (16, 2) if quick() else (64, 1, 8, 8)
    x, fast = torch.randn(shape, device=device), Compiled(solver)
    began = time.perf_counter()
    gap = float((sample(model, fast, x_T=x) - sample(model, solver, x_T=x)).abs().max())
    first = time.perf_counter() - began
    before, after = (seconds(functools.partial(sample, model, each, x_T=x), device, 20) for each in (solver, fast))
    ratio = before / after
    print(f"{goal(gap < 1e-3)}: the largest difference of a sample is {gap:.2g}; it took {first:.0f} s to compile")
    print(f"{goal(ratio >= 5)}: {1e3 * before:.2f} ms plain, {1e3 * after:.2f} ms compiled, {ratio:.2f} times faster")


def training(device: torch.device) -> None:
    """A training step beside its forward pass, backward pass and optimiser; the goal is at most 1.03 times."""
    network = large_network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model, batch, side = Denoiser(network, VP()), 2 if quick() else 128, 16 if quick() else 32
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x = torch.randn(batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    u, noise, loss = (
        torch.rand(batch, dtype=torch.float64, device="cpu").to(device),
        torch.randn_like(x),
        DenoisingLoss(),
    )
    c = torch.zeros(batch, device=device)

    def step(value: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                total = value().float().square().mean()
            total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    plain = seconds(step(lambda: network(x, c)), device)
    ours = seconds(step(lambda: loss(model, x, u, noise)), device)
    ratio = ours / plain
    print(f"{goal(ratio <= 1.03)}: a step takes {ratio:.3f} times its passes; {batch / ours:.0f} samples/s")
    with FlopCounterMode(display=False) as counted:
        step(lambda: network(x, c))()
    rate = counted.get_total_flops() / ours
    share = [f", {rate / peak:.0%} of the card's peak in bf16" for name, peak in PEAKS.items() if name in card(device)]
    print(f"{rate / 1e12:.3g} TFLOP/s of convolutions and products{''.join(share[:1])}")


def beside_diffusers(device: torch.device) -> None:
    """Samples a second of `backdrift train` and of diffusers' training loop on the same network."""
    print(diffusers_training.compare(device, quick()))


def commands(device: torch.device) -> None:
    """`backdrift train`, `sample`, `likelihood` and the report on the device, in a temporary folder."""
    steps = "20" if quick() else "1600"
    lines = [
        ["train", f"train.steps={steps}", f"device={device}", "report=false"],
        ["sample", "run=latest", "n=64", f"device={device}"],
        ["likelihood", "run=latest", f"n={4 if quick() else 64}", f"device={device}"],
        *([] if quick() else [["report", "run=latest", f"device={device}"]]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "backdrift", *line], cwd=folder, capture_output=True, text=True
            )
            said = (done.stdout or done.stderr).strip().splitlines()
            took = time.perf_counter() - began
            print(f"{goal(done.returncode == 0)}: `backdrift {' '.join(line)}` took {took:.1f} s: {(said or [''])[-1]}")


SECTIONS: dict[str, tuple[Callable[[torch.device], None], int]] = {
    "same_samples": (same_samples, 50),
    "waits": (waits, 40),
    "random_numbers": (random_numbers, 40),
    "sampling": (sampling, 80),
    "compiled": (compiled, 110),
    "training": (training, 70),
    "beside_diffusers": (beside_diffusers, 90),
    "commands": (commands, 120),
}
"""What is measured, and its time limit in seconds. All limits together are ten minutes."""


def measured(name: str, device: torch.device) -> str:
    """What a section prints in a process of its own, with what went wrong."""
    function, limit = SECTIONS[name]
    line = [sys.executable, __file__, "--section", name, "--device", str(device)]
    began = time.perf_counter()
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=limit)
        said, errors = done.stdout, "" if done.returncode == 0 else f"failed: {done.stderr.strip().splitlines()[-1]}\n"
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        errors = f"stopped after {limit} s\n"
    lines = "".join(f"- {each}\n" for each in (said + errors).splitlines())
    title = (function.__doc__ or name).strip()
    return f"## {name}\n\n{title}\n\n{lines}- it took {time.perf_counter() - began:.0f} s\n\n"


def described(device: torch.device) -> str:
    """The device in words."""
    sizes = ", small sizes (--quick), which measure nothing" if quick() else ""
    return f"{card(device)}, torch {torch.__version__}{sizes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="as the key device of the commands")
    parser.add_argument("--section", choices=list(SECTIONS), help="this one alone, printed and not written")
    parser.add_argument("--quick", action="store_true", help="small sizes, written into gpu_quick.md")
    options = parser.parse_args()
    device = device_named(options.device)
    if options.quick:
        os.environ[QUICK] = "1"
    if options.section:
        SECTIONS[options.section][0](device)
        return
    file = RESULTS / ("gpu_quick.md" if quick() else "gpu.md")
    file.write_text(f"# Measured on {described(device)}\n\n`python {' '.join(sys.argv)}`\n\n", encoding="utf-8")
    for name in SECTIONS:
        text = measured(name, device)
        print(text, flush=True)
        with file.open("a", encoding="utf-8") as results:
            results.write(text)


if __name__ == "__main__":
    main()
