import math

import numpy as np
import pytest

from jaxdiff.config import METRICS
from jaxdiff.evaluation import table
from jaxdiff.evaluation.ranking import best, pareto_front, worst


def dominates(a, b, signs):
    """Whether no metric of `a` is worse than that of `b`, and one is better."""
    better = [sign * (x - y) for x, y, sign in zip(a, b, signs, strict=True)]
    return all(d >= 0 for d in better) and any(d > 0 for d in better)


@pytest.mark.parametrize(
    ("metrics", "signs"),
    [
        (("precision", "recall"), (1, 1)),
        (("fd", "vendi"), (-1, 1)),
        (("fd", "mss"), (-1, -1)),
        (("fd", "precision", "recall"), (-1, 1, 1)),
    ],
)
def test_the_front_is_that_of_all_pairs(metrics, signs):
    random = np.random.RandomState(len(metrics))
    for levels in (4, 1000):  # with ties and without
        table = random.randint(0, levels, (60, len(metrics)))
        measured = {
            n: dict(zip(metrics, map(float, row), strict=True)) for n, row in enumerate(table)
        }
        expected = {
            n for n in measured if not any(dominates(row, table[n], signs) for row in table)
        }
        front = pareto_front(measured, metrics)
        assert set(front) == expected
        assert len(front) == len(expected) > 1
        firsts = [signs[0] * measured[n][metrics[0]] for n in front]
        assert firsts == sorted(firsts, reverse=True)


def test_points_without_values_are_never_best():
    measured = {
        "a": {"fd": worst("fd"), "recall": worst("recall")},
        "b": {"fd": math.nan, "recall": math.nan},
        "c": {"fd": 5.0, "recall": 0.1},
        "d": {"fd": 4.0, "recall": 0.1},
    }
    assert (best(measured, "fd"), best(measured, "recall")) == ("d", "c")
    assert pareto_front(measured, ("fd", "recall")) == ["d"]
    del measured["c"], measured["d"]
    assert best(measured, "fd") is best(measured, "recall") is best({}, "fd") is None
    assert pareto_front(measured, ("fd", "recall")) == []


def test_settings_and_measurements_know_the_same_metrics():
    assert set(METRICS) == set(table.METRICS)
