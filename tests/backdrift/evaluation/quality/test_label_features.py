"""Features of a small classifier tell samples of digits from those that are not."""

import torch

from backdrift.data import Digits
from backdrift.data.views import readable_data
from backdrift.evaluation.label_features import LabelFeatures
from backdrift.evaluation.quality import FeatureSet
from backdrift.evaluation.report_quality import measure, verdict
from backdrift.evaluation.solver_comparison import comparable


def test_features_see_what_is_wrong_with_damaged_digits() -> None:
    data = Digits()
    features = LabelFeatures(data)
    assert features.accuracy.value > 0.9
    real = comparable(data.units, readable_data(data.units, data.train[:297]))
    noise = 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(real)
    test = FeatureSet(features).add(comparable(data.units, readable_data(data.units, data.test)))
    numbers = {
        name: measure(FeatureSet(features).add(values), test)
        for name, values in (("training set", real), ("generated", (real + noise).clamp(0, 1)))
    }
    good, bad = numbers["training set"], numbers["generated"]
    assert good.frechet is not None and bad.frechet is not None
    assert bad.kernel.value > 4 * bad.kernel.standard_error
    assert bad.frechet.value - good.frechet.value > 4 * bad.frechet.standard_error
    assert bad.precision.value < good.precision.value
    assert bad.told_apart.p_value < 1e-3
    assert "farther" in verdict(numbers)
    assert "as near" in verdict({"generated": good, "training set": good})
