"""The solvers on a fixed grid by name: the options of `solver=`, which `backdrift solvers` lists and tests certify.

An option's arguments, its number of steps among them, stand here where they differ from the defaults of the class. The
files conf/solver/<name>.yaml are made from this.
"""

from __future__ import annotations

from typing import NamedTuple

from backdrift.solvers.tables.adams import Adams
from backdrift.solvers.tables.ddim import DDIM, Ancestral
from backdrift.solvers.tables.dpm_solver import DPMSolver, DPMSolverPP2M, DPMSolverPP2S, ExponentialRK3
from backdrift.solvers.tables.euler import Euler, EulerMaruyama, ReverseDiffusion
from backdrift.solvers.tables.heun import Heun
from backdrift.solvers.tables.ipndm import IPNDM
from backdrift.solvers.tables.restart import Restart
from backdrift.solvers.tables.runge_kutta import RungeKutta
from backdrift.solvers.tables.stochastic_adams import SASolver, StochasticAdams
from backdrift.solvers.tables.table_solver import TableSolver
from backdrift.solvers.tables.unipc import UniPC


class Entry(NamedTuple):
    """A solver, and where it comes from.

    Attributes:
        solver: with the arguments of the option.
        source: author, year and equation or algorithm.
    """

    solver: TableSolver
    source: str


CATALOGUE: dict[str, Entry] = {
    "euler": Entry(Euler(), "Song et al. 2021, eq. 13"),
    "ddim": Entry(DDIM(), "Song, Meng & Ermon 2021, eq. 12"),
    "heun": Entry(Heun(steps=18), "Karras et al. 2022, alg. 1"),
    "rk4": Entry(RungeKutta(order=4), "Kutta 1901, on dz/dphi = -F"),
    "erk3": Entry(ExponentialRK3(), "Hochbruck & Ostermann 2005"),
    "dpm_solver_2": Entry(DPMSolver(order=2), "Lu et al. 2022a, alg. 1"),
    "dpm_solver_3": Entry(DPMSolver(order=3), "Lu et al. 2022a, alg. 2"),
    "dpm_solver_pp_2s": Entry(DPMSolverPP2S(), "Lu et al. 2022b, alg. 1"),
    "dpm_solver_pp_2m": Entry(DPMSolverPP2M(), "Lu et al. 2022b, alg. 2"),
    "dpm_solver_pp_3m": Entry(
        Adams(order=3, predict="denoised", clock="log_snr", grid="karras", final="denoise", eps=None),
        "Lu et al. 2022b, with exact weights",
    ),
    "deis": Entry(
        Adams(order=3, predict="noise", clock="time", start="ramp", grid="quadratic", final="denoise", eps=None),
        "Zhang & Chen 2023 (tAB3)",
    ),
    "ipndm": Entry(IPNDM(), "Zhang & Chen 2023 (iPNDM)"),
    "unipc": Entry(UniPC(), "Zhao et al. 2023"),
    "adams": Entry(Adams(), "this package, after Hochbruck & Ostermann 2010"),
    "adams_denoised_4": Entry(
        Adams(order=4, predict="denoised", start="runge_kutta"), "as adams, order 4 in denoised prediction"
    ),
    "adams_noise_3": Entry(Adams(order=3, predict="noise"), "as adams, order 3 in noise prediction"),
    "adams_velocity_3": Entry(Adams(order=3, predict="velocity"), "as adams, order 3 in velocity prediction"),
    "adams_velocity_4": Entry(
        Adams(order=4, predict="velocity", start="runge_kutta"), "as adams, order 4 in velocity prediction"
    ),
    "euler_maruyama": Entry(EulerMaruyama(), "Song et al. 2021, eq. 6"),
    "reverse_diffusion": Entry(ReverseDiffusion(), "Song et al. 2021, eq. 46"),
    "ancestral": Entry(Ancestral(), "Ho et al. 2020, alg. 2 (beta-tilde)"),
    "ddpm": Entry(Ancestral(variance="beta"), "Ho et al. 2020, alg. 2 (beta)"),
    "ddim_eta": Entry(DDIM(eta=1.0), "Song, Meng & Ermon 2021, eq. 16"),
    "edm_churn": Entry(Heun(churn=40.0), "Karras et al. 2022, alg. 2"),
    "sde_dpm_solver_pp": Entry(StochasticAdams(order=1), "Lu et al. 2022b (SDE-DPM-Solver++1)"),
    "sde_dpm_solver_pp_2m": Entry(StochasticAdams(order=2), "Lu et al. 2022b (SDE-DPM-Solver++(2M))"),
    "sde_dpm_solver_pp_3m": Entry(StochasticAdams(order=3), "Lu et al. 2022b, to third order"),
    "er_sde": Entry(StochasticAdams(order=3, scale="er", clock="sigma"), "Cui et al. 2023 (ER-SDE-Solver-3)"),
    "sa_solver": Entry(SASolver(order=3, corrector_order=3), "Xue et al. 2023"),
    "restart": Entry(Restart(), "Xu et al. 2023"),
}
