"""The digits: their data, how samples of them are judged, and conditions made of them."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import jaxdiff
from configs import digits_classifier
from jaxdiff.config import CADS, CFG, DDIM, Image, Label, Vector, replaced
from jaxdiff.data.source import open_split
from studies import classifier_scales, guidance_table, scores
from studies.digits import conditions, data, evaluation
from tests import tiny

pytestmark = pytest.mark.usefixtures("alone")
CONDITIONS = (Label(10), Vector(16), Image(1))


@pytest.fixture(scope="module")
def splits():
    config = tiny.config()
    return {split: open_split(config.data, split, CONDITIONS) for split in ("train", "test")}


@pytest.fixture(scope="module")
def held_out(splits):
    rows = splits["test"].all()
    return rows["x"], rows["cond"]["label"]


def test_every_scan_is_in_one_split_once_with_its_label(splits):
    rows = [splits[split].all() for split in ("train", "test")]
    assert [len(each["x"]) for each in rows] == [1500, 297]
    digits = load_digits()
    known = {
        np.round(row * 15.9375).astype(np.uint8).tobytes(): label
        for row, label in zip(digits.data, digits.target, strict=True)
    }
    got = {
        image.tobytes(): label
        for each in rows
        for image, label in zip(each["x"], each["cond"]["label"], strict=True)
    }
    assert got == known
    whole = np.bincount(digits.target) / 1797
    for each in rows:
        counts = np.bincount(each["cond"]["label"])
        np.testing.assert_allclose(counts, whole * len(each["x"]), atol=1)


def test_conditions_are_made_of_the_digit(splits):
    rows = splits["test"].all()
    x, cond = rows["x"].astype(np.float64), rows["cond"]
    corner = (x[:, 2:4, 4:6, 0].mean((1, 2)) - 127.5) / 127.5
    np.testing.assert_allclose(cond["vector"][:, 1 * 4 + 2], corner, atol=1e-6)
    assert set(np.unique(cond["image"])) == {-1, 1}
    flat = np.full((1, 8, 8, 1), 7, np.uint8)
    flat[0, 3, 4] = 255
    # The pixel differs from those to its right and below, and so do those to its left and above.
    assert np.argwhere(data.edges(flat)[0, ..., 0]).tolist() == [[2, 4], [3, 3], [3, 4]]


def test_real_digits_score_like_real_digits(held_out):
    result = evaluation.score(*held_out)
    assert result.total_agreement > 0.97
    np.testing.assert_allclose(result.diversity, 1, atol=0.15)
    np.testing.assert_allclose(result.neighbour, 1, rtol=1e-6)
    np.testing.assert_array_equal(result.count, np.bincount(held_out[1]))


def test_wrong_labels_and_collapse_are_seen(held_out):
    images, labels = held_out
    wrong = evaluation.score(images, (labels + 1) % 10)
    assert wrong.total_agreement < 0.03
    assert wrong.neighbour > 1.3
    collapsed = images.copy()
    collapsed[labels == 4] = images[labels == 4][0]
    result = evaluation.score(collapsed, labels)
    np.testing.assert_allclose(result.diversity[4], 0, atol=1e-6)
    assert np.delete(result.diversity, 4).min() > 0.8


@pytest.mark.parametrize(("size", "tolerance"), [(900, 0.05), (20_000, 1e-4)])
def test_any_labelled_images_have_a_reader_of_their_own(
    splits, held_out, monkeypatch, size, tolerance
):
    """Of some of them, diversity is known roughly: here by 90 of 150 of a class."""
    monkeypatch.setattr(scores, "SIZE", size)
    images, labels = held_out
    real = scores.real(splits["train"], splits["test"])
    result = real.score(scores.rows_of(images), labels)
    assert result.total_agreement > 0.95
    np.testing.assert_allclose(result.neighbour, 1, rtol=1e-6)
    expected = evaluation.score(images, labels).diversity
    np.testing.assert_allclose(result.diversity, expected, rtol=tolerance)


def untrained(config):
    """A model with initial parameters."""
    parameters = jaxdiff.network(config).init(jax.random.key(0))
    return jaxdiff.TrainedModel(config=config, parameters=parameters)


@pytest.fixture(scope="module")
def model():
    return untrained(tiny.config(sampling=DDIM(steps=2)))


def test_a_table_has_a_row_for_each_method_and_is_not_made_twice(model, tmp_path):
    rows = {"no guidance": {}, "CFG, w 2": {"guidance": [CFG(2)]}}
    arguments = (model, rows, tmp_path, 20, DDIM(steps=2))
    table = guidance_table.measure(*arguments)
    assert [row[0] for row in table] == list(rows)
    assert [row[4] for row in table] == ["2 model", "4 model"]
    for row in table:
        assert 0 <= row[1] <= 1
        assert min(row[2], row[3], row[5]) > 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert guidance_table.measure(*arguments) == table
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    guidance_table.draw(table, tmp_path)
    assert (tmp_path / "guidance.png").stat().st_size > 10_000
    assert len(guidance_table.methods("a@1", "b@1", "c")) == 11


def test_the_scale_of_a_classifier_is_swept(tmp_path):
    tiny_classifier = {name: value for name, value in tiny.OVERRIDES.items() if "sampl" not in name}
    classifier = replaced(
        digits_classifier.get_config(), tiny_classifier | {"model.pool": "adaptive"}
    )
    model = untrained(tiny.config(model__conditions=(), diffusion__condition_dropout=0.0))
    classifier = untrained(classifier)
    arguments = {"model": model}, classifier, (0, 2), 20, tmp_path / "scales.csv"
    rows = classifier_scales.measure(*arguments)
    assert [row[:2] for row in rows] == [["model", 0], ["model", 2]]
    assert classifier_scales.measure(*arguments) == rows
    classifier_scales.draw(rows, tmp_path / "scales.png")
    assert (tmp_path / "scales.png").stat().st_size > 10_000


def test_conditions_of_held_out_digits_are_scored(monkeypatch, tmp_path):
    monkeypatch.setattr(conditions, "COUNT", 3)
    monkeypatch.setattr(conditions, "SAMPLES", 2)
    assert len(conditions.methods()) == 1 + 3 + 9
    model = untrained(tiny.config(model__conditions=(Vector(16),)))
    rows = {"CFG": {"guidance": [CFG(2)], "cads": CADS(0.4, 0.9, 1)}}
    found, images = conditions.measure(model, "vector", rows)
    assert np.isfinite(found["CFG"]).all()
    conditions.draw("vector", images, tmp_path / "figure.png", columns=3, samples=2)
    # The digits themselves have their own condition, and no diversity.
    real = conditions.held_out()
    spreads = dict.fromkeys(range(10), 1.0)
    _, error, diversity, _ = conditions.score("vector", real["x"], real, spreads)
    assert (error, diversity) == pytest.approx((0, 0), abs=1e-5)
