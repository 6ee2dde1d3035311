"""The samplers of other libraries behind one signature, each with every setting that it ships; see `peer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from peer import Peer
from peers_azula import azula, azula_noisy
from peers_diffusers import diffusers
from peers_flow_matching import flow_matching
from peers_k_diffusion import k_diffusion, k_diffusion_noisy
from peers_torchdiffeq import torchdiffeq
from peers_torchsde import torchsde_noisy

LIBRARIES: dict[str, Callable[[float], Iterator[Peer]]] = {
    "k-diffusion": k_diffusion,
    "diffusers": diffusers,
    "azula": azula,
    "torchdiffeq": torchdiffeq,
    "flow_matching": flow_matching,
}

STOCHASTIC: dict[str, Callable[[float], Iterator[Peer]]] = {
    "k-diffusion": k_diffusion_noisy,
    "azula": azula_noisy,
    "torchsde": torchsde_noisy,
}
