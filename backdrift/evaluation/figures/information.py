"""A denoiser's error along the noise, and the information that follows from it."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from backdrift.evaluation.figures.drawing import DPI, GENERATED, PALE
from backdrift.evaluation.information_curves import InformationCurves
from backdrift.evaluation.metrics import Estimate


def information(curves: InformationCurves) -> Figure:
    """Three curves against the log-SNR, each with a band of two standard errors.

    They are the error of each component, its share in the information, snr mmse/2 for all components, and the
    information itself. Areas under the second curve are nats, as are differences of the third.
    """
    share = [0.5 * curves.dim * math.exp(u) for u in curves.log_snr]
    rates = [Estimate(c * e.value, c * e.standard_error) for c, e in zip(share, curves.mmse, strict=True)]
    gaussian_rates = [c * value for c, value in zip(share, curves.gaussian, strict=True)]
    shown = (
        ("error of the denoiser", "mmse per component", curves.mmse, curves.gaussian),
        ("information gained", "nats for each unit of log-SNR", rates, gaussian_rates),
        ("information about the data", "I(x_0; x_t), nats", curves.information, curves.gaussian_information),
    )
    figure = Figure(figsize=(12.6, 3.8), dpi=DPI, layout="constrained")
    for axes, (title, label, estimates, gaussian) in zip(figure.subplots(1, 3), shown, strict=True):
        low, high = ([e.value + side * 2 * e.standard_error for e in estimates] for side in (-1, 1))
        axes.plot(curves.log_snr, gaussian, color=PALE, lw=1.5, label="normal data of the same covariance")
        axes.fill_between(curves.log_snr, low, high, color=GENERATED, alpha=0.3, lw=0)
        axes.plot(curves.log_snr, [e.value for e in estimates], color=GENERATED, lw=1.5, label="the model's denoiser")
        axes.set(xlabel="log-SNR", ylabel=label, title=title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure
