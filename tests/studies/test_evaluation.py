"""Damage to images, what it must do to the metrics, and that it does, with real features."""

import io
import os
import tarfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff.errors import UserError
from studies.evaluation import conversions, damages, expected, images, models, sample_size

DATA = os.environ.get("JAXDIFF_TEST_DATA")
pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def pictures():
    """Smooth random images, uint8 [6, 16, 16, 3]."""
    drawn = np.random.default_rng(0).uniform(0, 255, (6, 4, 4, 3)).astype(np.uint8)
    large = [Image.fromarray(each).resize((16, 16), Image.Resampling.BICUBIC) for each in drawn]
    return np.stack([np.asarray(each) for each in large])


def error(images, changed):
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    return np.sqrt(((images.astype(float) - changed) ** 2).mean())


def test_damage_grows_with_its_strength(pictures):
    for function, strengths in (
        (images.blur, (12, 8, 2)),
        (images.noise, (5, 10, 20)),
        (images.jpeg, (75, 50, 5)),
    ):
        for each in (pictures, pictures[..., :1]):
            errors = [error(each, function(each, strength)) for strength in strengths]
            assert errors == sorted(errors)
            assert errors[0] > 0


def test_blur_keeps_what_is_flat_and_noise_has_its_deviation():
    flat = np.full((20, 32, 32, 1), 128, np.uint8)
    assert error(flat, images.blur(flat, 8)) == 0
    # Rounding adds a variance of 1/12.
    expected_error = np.sqrt(10**2 + 1 / 12)
    assert error(flat, images.noise(flat, 10)) == pytest.approx(expected_error, rel=0.03)


def test_choices_of_images_have_the_same_number_of_them():
    labels = np.arange(60) % 6
    rows = images.kept_classes(labels, (1, 4), 10)
    assert np.bincount(labels[rows], minlength=6).tolist() == [0, 5, 0, 0, 5, 0]
    assert len(set(rows)) == 10
    counts = np.bincount(images.duplicated(24, 4))
    assert sorted(set(counts)) == [0, 4]
    assert counts.sum() == 24
    mixed = images.mixed(np.zeros((20, 1)), np.ones((20, 1)), 0.25)
    assert mixed.sum() == 5


def test_images_of_another_set_take_its_shape(pictures):
    grey = images.like(pictures, (8, 8, 1))
    assert grey.shape == (6, 8, 8, 1)
    assert abs(grey.mean() - pictures.mean()) < 20
    assert (np.ptp(images.like(grey, (16, 16, 3)), axis=-1) == 0).all()


def test_photographs_are_read_by_class(tmp_path):
    for number, name in enumerate(("b", "a")):
        (tmp_path / name).mkdir()
        for n in range(2 + number):
            file = tmp_path / name / f"{n}.PNG"
            Image.fromarray(np.full((9, 12, 3), 40 * number + n, np.uint8)).save(file)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    found, labels, names = images.photographs(epath.Path(tmp_path), 8)
    assert names == ("a", "b")
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert found.shape == (5, 8, 8, 3)
    assert sorted(found[:, 0, 0, 0]) == [0, 1, 40, 41, 42]
    with pytest.raises(UserError, match="class folders"):
        images.photographs(epath.Path(tmp_path / "a"), 8)


def test_every_metric_has_a_direction_for_every_damage():
    directions = {expected.UP, expected.DOWN, expected.SAME, expected.EITHER}
    for damage, each in expected.EXPECTED.items():
        assert tuple(each) == expected.METRICS, damage
        assert {direction for direction, _ in each.values()} <= directions
        assert {each[metric][0] for metric in expected.STRICT} == {expected.UP}


@pytest.mark.parametrize(
    ("damage", "metric", "values", "verdict"),
    [
        ("blur", "fd", [1, 2, 3, 4], True),
        ("blur", "fd", [1, 2, 2, 4], False),
        ("blur", "kid", [-0.1, 0, 0.1, 0.09], False),
        ("blur", "precision", [0.9, 0.7, 0.715, 0.3], True),  # back by less than .02
        ("blur", "precision", [0.9, 0.7, 0.73, 0.3], False),
        ("blur", "precision", [0.9, 0.89, 0.9, 0.9], False),
        ("blur", "mss", [0.5, 0.6, 0.7, 0.8], True),
        ("duplicates", "precision", [0.8, 0.75, 0.85, 0.71], True),
        ("duplicates", "density", [0.5, 0.5, 0.5, 0.56], False),  # of .5, not of 1
        ("noise", "vendi", [9, 1, 2, 3], None),
    ],
)
def test_values_are_judged_by_the_rule_that_was_written(damage, metric, values, verdict):
    assert expected.holds(damage, metric, values) is verdict


def test_the_table_names_what_is_not_as_expected(tmp_path):
    def values(n):
        return dict.fromkeys(expected.METRICS, 0.5 + 0.01 * n)  # everything rises

    found = {("none", ""): values(0)}
    found |= {(damage, str(n)): values(n) for damage in ("blur", "jpeg") for n in (1, 2, 3)}
    rows = damages.rows_of(found)
    assert [row[0] for row in rows] == ["none", "blur", None, None, "jpeg", None, None]
    assert rows[1][-1] == "precision, recall, density, coverage, vendi"
    assert rows[4][-1] == "precision, density, coverage"
    damages.draw({"x": found}, epath.Path(tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert len(damages.expected_rows()) == len(expected.EXPECTED)


def test_the_spread_of_draws_is_that_of_independent_ones(tmp_path):
    """Means of n out of P vary by sigma^2/n (1 - n/P): the factor is taken out."""
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(100)
    means = [rng.permutation(pool)[:80].mean() for _ in range(400)]
    name, n, spread, deviation, *_ = sample_size.rows_of("x", {80: {"fd": means}}, 100)[0]
    assert (name, n) == ("x", 80)
    assert spread["range"][1] < spread["range"][0] < spread["range"][2]
    assert deviation == pytest.approx(pool.std(ddof=1) / np.sqrt(80), rel=0.1)


def test_draws_are_measured_at_every_size(tmp_path):
    rng = np.random.default_rng(0)
    real, pool = rng.standard_normal((60, 4)), rng.standard_normal((40, 4))
    found = sample_size.measure(real, pool, 2, sizes=(10, 30))
    assert all(len(each["fd"]) == len(each["kid"]) == 2 for each in found.values())
    # Fewer samples, larger distance.
    assert np.mean(found[10]["fd"]) > np.mean(found[30]["fd"])
    sample_size.draw({"x": found}, epath.Path(tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_conversion_is_measured_against_the_way_it_is_compared_with():
    """Features that are moved by 3 along one axis: the distance between the two is 9."""
    large = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), np.uint8)
    small = conversions.rounded(conversions.resized(large, 8, "torch_bilinear_antialias"))
    assert abs(small.mean() - large.mean()) < 2

    def features(images, resize="", dtype=""):
        rows = images.reshape(12, -1)[:, :4].astype(float)
        rows[:, 0] += 3 if resize or dtype else 0
        return rows

    found = conversions.ways(small, large)
    rows = conversions.measure(found, features(small)[::-1], features)
    assert [len(row) for row in rows] == [len(conversions.COLUMNS)] * len(found)
    moved = {row[0]: row[2:] for row in rows}
    between, before, moves = moved["features in bfloat16"]
    # The others are the same rows, so the distance to them was 0.
    assert between == pytest.approx(9, abs=1e-6)
    assert before == pytest.approx(0, abs=1e-6)
    assert moves == pytest.approx(9, abs=1e-6)
    assert moved["bytes truncated"][0] > 0


def test_samples_have_a_row_with_all_metrics():
    class Result:
        total_agreement, diversity = 0.5, np.array([1.0, np.nan])

    rng = np.random.default_rng(0)
    real, fake = rng.random((30, 5)), rng.random((20, 5))
    row = models.row("x", real, fake, None, np.arange(20) % 2, lambda *_: Result)
    assert len(row) == len(models.COLUMNS)
    assert row[:3] == ["x", 20, 30]
    assert row[-2:] == [0.5, 1.0]


@pytest.mark.skipif(not DATA, reason="JAXDIFF_TEST_DATA names no folder of photographs")
def test_blur_and_noise_move_metrics_of_real_features_as_expected():
    from jaxdiff.evaluation.extractors import open_extractor
    from jaxdiff.evaluation.metrics import frechet, kid, neighbours

    extractor = open_extractor("efficientnet-lite0")
    real, intact = of_the_archive(30)

    def values(samples):
        features = extractor(samples)["features"]
        moments = frechet.Moments.of(features)
        precision, _ = neighbours.precision_recall(reference, features)
        distance = frechet.distance(frechet.Moments.of(reference), moments)
        return distance, kid.kid(reference, features, size=len(features))[0], precision

    reference = extractor(real)["features"]
    before = values(intact)
    for function, strengths in ((images.blur, (16,)), (images.noise, (20,))):
        for strength in strengths:
            distance, kernel, precision = values(function(intact, strength))
            assert distance > 1.1 * before[0]
            assert kernel > before[1]
            assert precision < before[2]


def of_the_archive(count):
    """Two disjoint sets of `count` photographs of 64 x 64 pixels, of three classes."""
    from jaxdiff.data.images import fit

    sets = [], []
    with tarfile.open(f"{DATA}/caltech12.tar") as archive:
        for name in ("bonsai", "ketch", "watch"):
            members = [m for m in archive.getmembers() if f"/{name}/" in m.name and m.isfile()]
            for n, member in enumerate(members[: 2 * count // 3]):
                picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
                sets[n % 2].append(fit(np.asarray(picture.convert("RGB")), 64, 3))
    return np.stack(sets[0]), np.stack(sets[1])
