"""The classifier two-sample test: can a classifier tell generated samples from real ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backdrift.evaluation.class_posterior import share
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.quality.feature_set import FeatureSet, both

LEAST = 20
"""Samples of each set at least. Half of them are fitted to, and the accuracy is that on the others."""


@dataclass(frozen=True)
class TwoSampleTest:
    """How well a classifier told two sets apart.

    Attributes:
        accuracy: the share of held-out samples that it put into the right set: 1/2 where the sets cannot be told apart,
            1 where they never are confused.
        p_value: the probability of such an accuracy or a higher one, if both sets had the same distribution.
    """

    accuracy: Estimate
    p_value: float

    def __str__(self) -> str:
        return f"accuracy {self.accuracy}, p = {self.p_value:.2g}"


def two_sample_test(
    x: Tensor | FeatureSet, y: Tensor | FeatureSet, classifier: Any = None, seed: int = 0
) -> TwoSampleTest:
    """Fit a classifier to one half of two sets, and measure its accuracy on the other half (Lopez-Paz & Oquab 2017).

    Both sets are cut to the size of the smaller one. If both have the same distribution, the number of right answers
    counts as binomial with p = 1/2, which gives the p-value. A p-value that is not small says that this classifier sees
    no difference, and not that there is none.

    Args:
        x: features `[n, ...]` of generated samples, or a set of them.
        y: features of the same number `[m, ...]` of real samples, or a set of them.
        classifier: one of scikit-learn's, with `fit` and `predict`, which is cloned. By default it is a network with
            two hidden layers of 64 on standardised features.
        seed: of the halves, and of the default classifier.

    Raises:
        ValueError: if a set holds fewer than `LEAST` samples, or the sets have different numbers of features.
    """
    from scipy.stats import binomtest
    from sklearn.base import clone  # takes a second to import

    sets = [found.kept for found in both(x, y, LEAST)]
    n = min(map(len, sets))
    generator = torch.Generator().manual_seed(seed)
    features = torch.cat([own[torch.randperm(len(own), generator=generator)[:n]] for own in sets]).numpy()
    sides = (torch.arange(2 * n) >= n).long().numpy()
    fitted_to = (torch.arange(2 * n) % n < n // 2).numpy()
    model = _network(seed) if classifier is None else clone(classifier)
    model.fit(features[fitted_to], sides[fitted_to])
    right = torch.from_numpy(model.predict(features[~fitted_to]) == sides[~fitted_to]).double()
    p_value = binomtest(int(right.sum()), len(right), alternative="greater").pvalue
    return TwoSampleTest(share(right), float(p_value))


def _network(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier((64, 64), alpha=1e-2, early_stopping=True, n_iter_no_change=20, random_state=seed)
    return make_pipeline(StandardScaler(), network)
