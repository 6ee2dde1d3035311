"""How near generated samples are to real ones, measured on features of them, each number with its error."""

from backdrift.evaluation.quality.feature_set import FeatureSet
from backdrift.evaluation.quality.frechet import frechet_distance
from backdrift.evaluation.quality.kernel import kernel_distance
from backdrift.evaluation.quality.precision_recall import PrecisionRecall, precision_recall
from backdrift.evaluation.quality.two_sample import TwoSampleTest, two_sample_test

__all__ = [
    "FeatureSet",
    "PrecisionRecall",
    "TwoSampleTest",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "two_sample_test",
]
