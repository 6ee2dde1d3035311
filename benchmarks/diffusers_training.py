"""Samples a second of `backdrift train` and of diffusers' training loop, for the same network and pictures.

    python benchmarks/diffusers_training.py             # on the accelerator that is there
    python benchmarks/diffusers_training.py --quick     # a small network and few steps, to try the script on a CPU

The network is diffusers' `UNet2DModel`, which we have as `model=unet2d`. The loop takes the steps of diffusers' example
`unconditional_image_generation/train_unconditional.py`: noise by a `DDPMScheduler`, a mean squared error, clipped
gradients, AdamW, a cosine learning rate, an `EMAModel`, and accelerate around them. Both train in bf16 on pictures that
lie in memory. The first third of the steps does not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from backdrift.models import UNet2D
from backdrift.runs.device import device_named
from backdrift.runs.run import Run

PICTURES = 2048


def widths(quick: bool) -> list[int]:
    """Channels at each level: 36 million parameters, or few."""
    return [8, 16] if quick else [128, 256, 256, 256]


def ours(pictures: Tensor, batch: int, steps: int, device: torch.device, quick: bool) -> float:
    """Samples a second of `backdrift train` in a temporary folder, after the first third of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pictures.npy", pictures.numpy())
        line = [
            *("train", "data=array", "data.path=pictures.npy", "model=unet2d", "report=false", f"device={device}"),
            *(f"model.widths={widths(quick)}", f"model.attention=[{len(widths(quick)) - 1}]", f"train.batch={batch}"),
            *(f"train.steps={steps}", f"train.log_every={steps // 3}", "train.mixed_precision=bf16"),
            f"train.channels_last={str(device.type == 'cuda').lower()}",
        ]
        subprocess.run([sys.executable, "-m", "backdrift", *line], cwd=folder, check=True, capture_output=True)
        rows = Run.open(next((Path(folder) / "runs").iterdir())).read_metrics()
    first, last = ((row["step"], row["seconds"]) for row in (rows[0], rows[-1]))
    return batch * (last[0] - first[0]) / (last[1] - first[1])


def diffusers_loop(pictures: Tensor, batch: int, steps: int, device: torch.device, quick: bool) -> float:
    """Samples a second of the loop of diffusers' example, after the first third of the steps."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator: Any = Accelerator(mixed_precision="bf16", cpu=device.type == "cpu")
    torch.manual_seed(0)
    network: Any = UNet2D(pictures.shape[1], widths(quick), attention=[len(widths(quick)) - 1]).network
    average: Any = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    average.to(accelerator.device)
    noising: Any = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    loader = DataLoader(TensorDataset(pictures.float() / 127.5 - 1), batch, shuffle=True, drop_last=True)
    network, optimizer, loader, rate = accelerator.prepare(network, optimizer, loader, rate)
    done, began = 0, 0.0
    while done < steps:
        for (x,) in loader:
            noise = torch.randn_like(x)
            times = torch.randint(0, 1000, (len(x),), device=x.device)
            value = network(noising.add_noise(x, noise, times), times).sample
            loss = functional.mse_loss(value.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            average.step(network.parameters())
            loss.item()  # the example logs it at every step
            done += 1
            if done == steps // 3:
                began = time.perf_counter()
            if done == steps:
                break
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize()
    return batch * (steps - steps // 3) / (time.perf_counter() - began)


def compare(device: torch.device, quick: bool) -> str:
    """The result in a sentence."""
    batch, steps, side = (8, 30, 8) if quick else (128, 150, 32)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (PICTURES, 3, side, side), generator=generator, dtype=torch.uint8)
    one, other = (run(pictures, batch, steps, device, quick) for run in (ours, diffusers_loop))
    return f"backdrift {one:.0f} samples/s, diffusers' loop {other:.0f} samples/s, ratio {one / other:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="as the key device of the commands")
    parser.add_argument("--quick", action="store_true", help="a small network and few steps")
    options = parser.parse_args()
    print(compare(device_named(options.device), options.quick))
