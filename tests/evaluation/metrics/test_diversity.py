import numpy as np
import pytest

from jaxdiff.evaluation.metrics import diversity
from jaxdiff.evaluation.metrics.diversity import mss, vendi

RNG = np.random.RandomState(0)
ORDERS = [0, 0.5, 1, 2, np.inf]


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("dimension", [6, 9])
def test_orthogonal_rows_are_all_different(q, dimension):
    rotation, _ = np.linalg.qr(RNG.randn(dimension, dimension))
    rows = (rotation[:6] * RNG.uniform(0.1, 5, (6, 1))).astype(np.float32)
    assert vendi(rows, q=q) == pytest.approx(6, rel=1e-6)
    assert mss(rows) == pytest.approx(1 / 6, rel=1e-6)
    # Three times each: as different as before.
    assert vendi(np.repeat(rows, 3, axis=0), q=q) == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("shape", [(1, 4), (5, 4), (5, 8), (5, 1)])
def test_equal_rows_are_one(q, shape):
    rows = np.full(shape, 0.3, np.float32)
    assert vendi(rows, q=q) == pytest.approx(1, rel=1e-12)
    assert mss(rows) == pytest.approx(1, rel=1e-12)


def test_two_rows_by_their_angle():
    # K has the eigenvalues 1 + c and 1 - c.
    c = np.cos(0.7)
    rows, values = np.array([[2.0, 0.0], [c, np.sin(0.7)]]), np.array([1 + c, 1 - c]) / 2
    assert mss(rows) == pytest.approx((1 + c) / 2)
    assert vendi(rows) == pytest.approx(np.exp(-(values * np.log(values)).sum()))
    assert vendi(rows, q=2) == pytest.approx(1 / (values**2).sum())
    assert vendi(rows, q=0.5) == pytest.approx(np.sqrt(values).sum() ** 2)
    assert vendi(rows, q=np.inf) == pytest.approx(1 / values.max())


@pytest.mark.parametrize("q", [0.5, 1, 3])
def test_both_products_give_one_value(q, monkeypatch):
    monkeypatch.setattr(diversity, "ROWS", 7)
    rows = diversity.units(RNG.randn(30, 8))
    wide = np.concatenate([rows, np.zeros((30, 40))], axis=1)  # so that K is the smaller one
    assert vendi(rows, q=q) == pytest.approx(vendi(wide, q=q), rel=1e-12)


def test_conditions_have_one_weight():
    rows, labels = RNG.randn(9, 5), np.array([4, 2, 4, 4, 7, 2, 4, 4, 4])
    groups = rows[labels == 2], rows[labels == 4], rows[labels == 7]
    for metric in (mss, vendi):
        assert metric(rows, labels) == pytest.approx(np.mean([metric(group) for group in groups]))


def test_mss_is_the_mean_of_all_similarities():
    rows = RNG.randn(6, 4)
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a in rows for b in rows]
    assert mss(rows) == pytest.approx(np.mean(cosines), rel=1e-12)


def test_a_row_of_zeros_has_no_direction():
    rows = RNG.randn(4, 3)
    rows[2] = 0
    with pytest.raises(ValueError, match="Row 2"):
        vendi(rows)
