"""Features of samples from a small classifier, for data that have classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backdrift.data import Data
from backdrift.data.views import readable_data
from backdrift.evaluation.class_posterior import share
from backdrift.evaluation.metrics import Estimate
from backdrift.evaluation.solver_comparison import comparable

HIDDEN = (128, 32)
"""Units of the hidden layers. The last one gives the features."""

FITTED = 5000
"""Training samples that the classifier is fitted to, at most."""


class LabelFeatures:
    """The last hidden layer of a network that was fitted to the classes of the training set.

    The network is scikit-learn's `MLPClassifier` with `HIDDEN` units, on values as people see them. All components are
    divided by one number: a pixel that is nearly constant would else be a feature a thousand times too large wherever a
    sample differs there.

    Args:
        data: a data set with classes.

    Attributes:
        accuracy: of the classifier on the test set.

    Raises:
        ValueError: if the data have no classes.
    """

    def __init__(self, data: Data) -> None:
        from sklearn.neural_network import MLPClassifier  # takes a second to import

        if data.train_labels is None or data.test_labels is None:
            raise ValueError("data: expected labels of the training and of the test set, got none")
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(data.train), generator=generator, device="cpu")[:FITTED]
        values = comparable(data.units, readable_data(data.units, data.train[chosen]))
        self.mean, self.scale = _flat(values).mean(0), max(float(_flat(values).std()), 1e-12)
        self.network: Any = MLPClassifier(HIDDEN, max_iter=60, n_iter_no_change=5, tol=1e-3, random_state=0)
        self.network.fit(self._scaled(values), data.train_labels[chosen].numpy())
        test = self._scaled(comparable(data.units, readable_data(data.units, data.test)))
        right = torch.from_numpy(self.network.predict(test)) == data.test_labels
        self.accuracy: Estimate = share(right.double())

    def __call__(self, values: Tensor) -> Tensor:
        """The features `[n, 32]` of comparable values `[n, ...]`."""
        hidden = self._scaled(values)
        for weights, offset in zip(self.network.coefs_[:-1], self.network.intercepts_[:-1], strict=True):
            hidden = (hidden @ weights + offset).clip(min=0)
        return torch.from_numpy(hidden)

    def _scaled(self, values: Tensor) -> Any:
        return (_flat(values) - self.mean) / self.scale


def _flat(values: Tensor) -> Any:
    return values.flatten(1).double().cpu().numpy()
