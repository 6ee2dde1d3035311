"""A pipeline of diffusers whose network is trained here, on handwritten digits: `UNet2DModel`, DDPM, 1000 linear betas.

    pip install -e ".[diffusers]"
    python benchmarks/digits_pipeline.py FOLDER

Nothing of this file's training is ours. It is the plain loop of diffusers' own examples (Ho et al. 2020, algorithm 1)
on dequantised digits in [-1, 1], with a running average of the weights. `diffusers_schedulers.py` and
`diffusers_bits.py` read the folder.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDPMScheduler, UNet2DModel
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from backdrift.data import Digits

BATCH = 64


def network() -> UNet2DModel:
    """A small U-Net with attention, of about 0.2 million weights."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )


def train(steps: int, seed: int) -> nn.Module:
    """The running average of a network that was trained to predict the noise of DDPM's chain."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data, unet = Digits(), network()
    scheduler = DDPMScheduler(clip_sample=False)
    average = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.05)
    began, smooth = time.perf_counter(), 1.0
    for step in range(steps):
        rows = torch.randint(0, len(data.train), (BATCH,), generator=generator)
        x0 = data.to_model(data.train[rows], generator)
        noise = torch.randn(x0.shape, generator=generator)
        timestep = torch.randint(0, 1000, (BATCH,), generator=generator)
        error = (unet(scheduler.add_noise(x0, noise, timestep), timestep).sample - noise).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        average.update_parameters(unet)
        smooth += 0.01 * (error.item() - smooth)
        if (step + 1) % 250 == 0:
            print(f"  step {step + 1}: loss {smooth:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    return average.module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for the pipeline")
    parser.add_argument("--steps", type=int, default=2500, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"folder: expected one that is not there yet, got {given.folder}")
    pipeline = DDIMPipeline(train(given.steps, given.seed), DDPMScheduler(clip_sample=False))
    pipeline.save_pretrained(given.folder)
    print(f"{given.folder}: a DDIMPipeline after {given.steps} steps")


if __name__ == "__main__":
    main()
