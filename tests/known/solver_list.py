"""Every solver of the package, ready to run on a model in the plane."""

from backdrift.solvers import (
    CATALOGUE,
    Adams,
    Adaptive,
    AnnealedLangevin,
    DPMSolverPP2M,
    MetropolisCorrector,
    OrnsteinUhlenbeckCorrector,
    PredictorCorrector,
    ScipyODE,
    Solver,
    TorchDiffEq,
    TorchSDE,
)

SOLVERS: dict[str, Solver] = {
    **{name: entry.solver for name, entry in CATALOGUE.items()},
    "adams_runge_kutta_corrected": Adams(order=3, corrector=4, start="runge_kutta", predict="velocity", steps=9),
    "adams_stopped": Adams(steps=9, final="stop"),
    "annealed_langevin": AnnealedLangevin(steps=6, repeats=3),
    "predictor_corrector": PredictorCorrector(),
    "predictor_corrector_ou": PredictorCorrector(predictor=Adams(steps=8), corrector=OrnsteinUhlenbeckCorrector()),
    "predictor_corrector_mala": PredictorCorrector(predictor=DPMSolverPP2M(), corrector=MetropolisCorrector()),
    "adaptive": Adaptive(),
    "scipy": ScipyODE(),
    "torchdiffeq": TorchDiffEq(),
    "torchdiffeq_rk4": TorchDiffEq(method="rk4", steps=9),
    "torchsde": TorchSDE(steps=20),
    "torchsde_euler": TorchSDE(steps=20, method="euler", denoise=False),
}
