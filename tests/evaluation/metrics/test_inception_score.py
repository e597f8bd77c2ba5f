import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from jaxdiff.evaluation.metrics.inception_score import shuffled, splits_in_order, ten_splits

RNG = np.random.RandomState(0)
LOGITS = 3 * RNG.randn(23, 7).astype(np.float32)


def score(logits):
    """exp of the mean divergence from the mean probabilities."""
    p = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    return np.exp(np.mean([entropy(each, p.mean(0)) for each in p]))


def test_consecutive_splits_of_one_weight_though_the_last_is_small():
    expected = np.mean([score(LOGITS[:10]), score(LOGITS[10:20]), score(LOGITS[20:])])
    assert splits_in_order(LOGITS, 10) == pytest.approx(expected, rel=1e-12)
    order = np.random.RandomState(5).permutation(23)
    assert shuffled(LOGITS, 10, seed=5) == pytest.approx(splits_in_order(LOGITS[order], 10))


def test_splits_of_about_one_size():
    parts = LOGITS[:5], LOGITS[5:11], LOGITS[11:17], LOGITS[17:]
    scores = [score(part) for part in parts]
    expected = np.mean(scores), np.std(scores)
    assert ten_splits(LOGITS, 4, seed=None) == pytest.approx(expected, rel=1e-12)
    order = np.random.RandomState(2020).permutation(23)
    assert ten_splits(LOGITS, 4) == pytest.approx(ten_splits(LOGITS[order], 4, seed=None))


def test_as_many_classes_as_there_are_and_one():
    sure = np.eye(10) * 5000  # the other probabilities underflow
    assert splits_in_order(sure) == pytest.approx(10)
    assert splits_in_order(np.zeros((10, 4))) == pytest.approx(1)
    assert splits_in_order(np.repeat(sure, 10, axis=0), 10) == pytest.approx(1)
    assert shuffled(np.repeat(sure, 100, axis=0), 500) == pytest.approx(10, rel=0.02)


def test_a_class_of_probability_zero_everywhere_adds_nothing():
    never = np.concatenate([LOGITS, np.full((23, 1), -5000)], axis=1)
    assert splits_in_order(never) == pytest.approx(splits_in_order(LOGITS), rel=1e-12)


def test_one_row_and_fewer_rows_than_splits():
    assert splits_in_order(LOGITS[:1]) == pytest.approx(1)
    with pytest.raises(ValueError, match="10 splits"):
        ten_splits(LOGITS[:9])
