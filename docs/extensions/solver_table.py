"""The directive `solver-table`: the solvers of the catalogue, with their orders as measured while the site is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from backdrift.solvers import CATALOGUE, certify

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

COLUMNS = ("`solver=`", "order, claimed", "order, measured", "evaluations a step", "when to take it", "source")

WHEN = {
    "euler": "To see what a plain Euler step does. DDIM costs the same and is nearer.",
    "ddim": "As the baseline that every paper has.",
    "heun": "To compare with EDM.",
    "rk4": "With many evaluations and a smooth score, as in closed forms.",
    "erk3": "To compare single-step solvers of order 3.",
    "dpm_solver_2": "To compare with DPM-Solver-2.",
    "dpm_solver_3": "To compare with DPM-Solver-3.",
    "dpm_solver_pp_2s": "To compare with the single-step DPM-Solver++.",
    "dpm_solver_pp_2m": "As the usual fast solver of other libraries.",
    "dpm_solver_pp_3m": "To compare with the third-order DPM-Solver++.",
    "deis": "To compare with DEIS.",
    "ipndm": "To compare with iPNDM.",
    "unipc": "To compare with UniPC.",
    "adams": "First. It is the default, and its settings follow the number of steps.",
    "adams_denoised_4": "For a study of the quantity that is extrapolated, at order 4.",
    "adams_noise_3": "For a study of the quantity that is extrapolated.",
    "adams_velocity_3": "For a study of the quantity that is extrapolated.",
    "adams_velocity_4": "For a study of the quantity that is extrapolated, at order 4.",
    "euler_maruyama": "As the baseline of stochastic solvers.",
    "reverse_diffusion": "To compare with score_sde.",
    "ancestral": "To compare with DDPM, with the smaller of its two variances.",
    "ddpm": "To compare with DDPM, with the larger of its two variances.",
    "ddim_eta": "To choose how much noise is added, by `solver.eta`.",
    "edm_churn": "To compare with EDM's stochastic sampler.",
    "sde_dpm_solver_pp": "To compare with the first-order SDE-DPM-Solver++.",
    "sde_dpm_solver_pp_2m": "As the usual fast stochastic solver of other libraries.",
    "sde_dpm_solver_pp_3m": "To compare with the third-order variant, whose weak order is 2.",
    "er_sde": "To compare with ER-SDE-Solver-3.",
    "sa_solver": "To compare with SA-Solver.",
    "restart": "Where errors of a network are to be washed out by going back to more noise.",
}
"""When to take each solver of the catalogue. The build fails where the two differ."""


def rows(stochastic: bool) -> list[str]:
    """The lines of the table of the stochastic solvers, or of the others, with their orders measured now."""
    if WHEN.keys() != CATALOGUE.keys():
        raise ValueError(
            f"WHEN: expected the names of the catalogue, these differ: {sorted(WHEN.keys() ^ CATALOGUE.keys())}"
        )
    made = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    for name, (solver, source) in CATALOGUE.items():
        if solver.stochastic == stochastic:
            found = certify(solver)
            made.append(
                f"| [`{name}`](#backdrift.solvers.{type(solver).__name__}) | {found.claimed:g} | {found.measured:.2f} "
                f"| {found.nfe:.2f} | {WHEN[name]} | {source} |"
            )
    return made


class SolverTable(SphinxDirective):
    """Put the table where the directive stands. Its argument is "deterministic" or "stochastic"."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = directives.choice(self.arguments[0], ("deterministic", "stochastic"))
        return self.parse_text_to_nodes("\n".join(rows(kind == "stochastic")))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("solver-table", SolverTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
