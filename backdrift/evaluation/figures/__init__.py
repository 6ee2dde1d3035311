"""Figures of data, samples, paths, losses and likelihoods. Each function returns a matplotlib `Figure`.

Every function takes data in the units that a person reads: images as `[n, channels, height, width]` with values in
[0, 1] (one channel is drawn in grey, three in colour), series as `[n, channels, length]`, vectors as `[n, d]`. No state
of pyplot is touched; save a figure with `figure.savefig(path)`.
"""

from backdrift.evaluation.figures.confusion import confusion
from backdrift.evaluation.figures.information import information
from backdrift.evaluation.figures.likelihood import likelihood_histogram, most_and_least_likely
from backdrift.evaluation.figures.loss import loss_curve
from backdrift.evaluation.figures.samples import by_class, samples
from backdrift.evaluation.figures.trajectory import trajectory

__all__ = [
    "by_class",
    "confusion",
    "information",
    "likelihood_histogram",
    "loss_curve",
    "most_and_least_likely",
    "samples",
    "trajectory",
]
