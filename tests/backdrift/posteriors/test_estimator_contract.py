"""scikit-learn's own checks of estimators, where its contract applies."""

from __future__ import annotations

import warnings

import pytest
from sklearn.utils.estimator_checks import check_estimator

from backdrift import SimulationPosterior

ROLES = "the two arrays are parameters and observations, and not features and targets"
FEW = "at least 20 simulations are needed, and this check gives fewer"
LEFT_OUT = {
    "check_fit_score_takes_y": ROLES,
    "check_n_features_in": ROLES,
    "check_n_features_in_after_fitting": FEW,
    "check_fit2d_1sample": FEW,
    "check_fit2d_1feature": FEW,
    "check_estimators_nan_inf": FEW,
    "check_complex_data": FEW,
    "check_estimators_empty_data_messages": "the message is in our own words",
    "check_estimator_sparse_tag": "sparse arrays are refused, in our own words",
    "check_estimator_sparse_array": "sparse arrays are refused, in our own words",
    "check_estimator_sparse_matrix": "sparse arrays are refused, in our own words",
    "check_dtype_object": "arrays of objects are refused",
    "check_fit1d": "a vector of parameters is n rows of one parameter",
}
"""Checks that do not apply, and why."""


@pytest.mark.slow
def test_checks_of_scikit_learn() -> None:
    small = SimulationPosterior(members=1, hidden=4, depth=1, steps=2, ode_steps=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(small, expected_failed_checks=LEFT_OUT, on_fail=None, on_skip=None)
    failed = [f"{one['check_name']}: {one['exception']!r}" for one in results if one["status"] == "failed"]
    assert failed == []
    assert sum(one["status"] == "passed" for one in results) >= 25
