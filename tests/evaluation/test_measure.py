"""Values against closed forms, what is refused, and what is left out."""

import dataclasses
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff.errors import UserError
from jaxdiff.evaluation import measure as module
from jaxdiff.evaluation.allowed import chosen
from jaxdiff.evaluation.images import of_arrays
from jaxdiff.evaluation.measure import measure
from jaxdiff.evaluation.metrics.frechet import Moments
from jaxdiff.evaluation.references import Reference
from jaxdiff.evaluation.run_evaluation import subset
from jaxdiff.evaluation.table import METRICS
from jaxdiff.evaluation.values import Options, Sides, values_of
from tests.evaluation.projection import Projection

INCEPTION, OTHER = Projection(), Projection(name="sscd", front_end="288", outputs={"features": 6})
SMALL = Options(kid_size=10)


def images(count, seed=0, size=4, name="x", labels=True):
    random = np.random.RandomState(seed)
    made = random.randint(0, 200, (count, size, size, 3)).astype(np.uint8)
    return of_arrays(made, np.arange(count) % 3 if labels else None, name=name)


def against(real):
    return Reference(name=real.name, digest=real.digest, images=real)


def measured(samples, real, names, extractor=INCEPTION, options=SMALL):
    found = measure(samples, against(real), extractor, names, options=options, quiet=True)
    return {value.metric: value for value in found}


def test_a_shift_has_the_distance_of_its_means():
    real = images(50)
    moved = of_arrays(real.fetch(np.arange(50)) + np.uint8(8))
    found = measured(moved, real, ("fid", "sfid", "fd"))
    shift = INCEPTION.project(np.full((1, 4, 4, 3), 8, np.uint8))
    for name, output in (("fid", "features"), ("fd", "features"), ("sfid", "spatial")):
        assert found[name].value == pytest.approx((shift[output] ** 2).sum(), rel=1e-5)
        assert (found[name].samples, found[name].reference_images) == (50, 50)


def test_equal_sets_are_at_no_distance_and_within_each_others_balls():
    real = images(40)
    found = measured(real, real, ("fid", "precision", "recall", "coverage", "density"))
    assert found["fid"].value == pytest.approx(0, abs=1e-9)
    assert found["precision"].value == found["recall"].value == found["coverage"].value == 1
    far = of_arrays(np.full((40, 4, 4, 3), 255, np.uint8))
    found = measured(far, real, ("precision", "recall", "density", "coverage", "precision_open"))
    assert [found[name].value for name in found] == [0, 0, 0, 0, 0]


def test_kid_of_one_whole_subset_is_its_formula():
    samples, real = images(12, 1), images(12, 2)
    value = measured(samples, real, ("kid",), options=Options(kid_size=12, kid_subsets=1))["kid"]
    x, y = (
        np.float64(INCEPTION.project(s.fetch(np.arange(12)))["features"]) for s in (samples, real)
    )

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    off = ~np.eye(12, dtype=bool)
    within = (kernel(x, x)[off].sum() + kernel(y, y)[off].sum()) / (12 * 11)
    assert value.value == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-9)
    assert (value.deviation, value.note) == (0, "1 subsets of 12")


def test_is_of_samples_sorted_by_class_is_low_in_order_and_says_so():
    labels = np.repeat(np.arange(10), 1000)
    logits = np.eye(10)[labels] * 1000
    found = {v.metric: v for v in values_of(Sides({"logits": logits}, labels, None), ("is",))}
    assert found["is"].value == pytest.approx(5)  # two splits of five classes
    assert "sorted by class" in found["is"].warning
    assert found["is_shuffled"].value == pytest.approx(10, rel=1e-3)
    assert found["is_10_splits"].value == pytest.approx(10, rel=1e-2)
    mixed = np.random.RandomState(0).permutation(10_000)
    sides = Sides({"logits": logits}, labels, None).take(mixed)
    assert not any(value.warning for value in values_of(sides, ("is",)))


def test_diversity_is_of_each_condition_and_of_one_set():
    rows = np.eye(4, dtype=np.float32)
    sides = Sides({"features": rows}, np.array([0, 0, 1, 1]), None)
    found = {value.metric: value.value for value in values_of(sides, ("vendi", "mss"))}
    assert found == pytest.approx({"vendi": 2, "vendi_all": 4, "mss": 0.5})
    (alone,) = values_of(dataclasses.replace(sides, labels=None), ("vendi",))
    assert alone.value == pytest.approx(4)
    assert "no labels" in alone.note
    rows[2] = 0
    with pytest.raises(UserError, match="sample 2"):
        values_of(sides, ("vendi",))


def test_few_images_for_a_distance_are_warned_of():
    assert "6 samples" in measured(images(6), images(50, 1), ("fd",))["fd"].warning
    assert not measured(images(7), images(50, 1), ("fd",))["fd"].warning
    assert (
        "smallest subset has 4"
        in measured(images(40), images(50), ("fd_infinity",))["fd_infinity"].warning
    )


def test_a_subset_is_the_one_that_edm2_takes():
    numbers = np.arange(100)
    np.random.RandomState(7).shuffle(numbers)
    np.testing.assert_array_equal(subset(100, 30, 7), np.sort(numbers[:30]))


def moments_only(extractor="inception-2015, tf1-bilinear"):
    moments = Moments(np.zeros(6), np.eye(6))
    return Reference(
        name="m.npz", digest="m", images=None, moments={extractor: {"features": moments}}
    )


def test_moments_of_unknown_weights_are_warned_of_beside_other_than_the_public_ones():
    known = dataclasses.replace(moments_only(), weights={"inception-2015, tf1-bilinear": "ab" * 32})
    other = dataclasses.replace(INCEPTION, public=False)
    for reference, extractor, is_warned in (
        (moments_only(), other, True),
        (known, other, False),
        (moments_only(), INCEPTION, False),
    ):
        (value,) = measure(images(30), reference, extractor, ("fid",))
        assert ("which weights" in value.warning) == is_warned


REFUSED = [  # metric, words, samples, reference, extractor, options
    ("kid", "subsets of 1000", images(30), against(images(30, 1)), INCEPTION, Options()),
    ("kid", "larger than the 9 reference", images(30), against(images(9)), INCEPTION, SMALL),
    ("precision", "neighbourhood is of 3", images(3), against(images(30)), INCEPTION, SMALL),
    (
        *("recall", "there are 3 reference images", images(30), against(images(30, 1)), INCEPTION),
        Options(reference_images=3),
    ),
    ("density", "neighbourhood is of 5", images(5), against(images(30)), INCEPTION, SMALL),
    ("coverage", "m.npz has no images", images(30), moments_only(), INCEPTION, SMALL),
    ("sfid", "not of its spatial", images(30), moments_only(), INCEPTION, SMALL),
    ("fid", "these are sscd, 288", images(30), against(images(30)), OTHER, SMALL),
    ("is", "sscd, 288 has no logits", images(30), None, OTHER, SMALL),
    ("fd", "no reference", images(30), None, OTHER, SMALL),
    (
        "fd",
        "tf1-bilinear, not of sscd",
        images(30),
        moments_only(),
        OTHER,
        SMALL,
    ),
    ("fd", "only one image", images(30), against(images(1)), OTHER, SMALL),
    ("fd_infinity", "needs 20", images(19), against(images(30)), OTHER, SMALL),
    ("is", "needs 10", images(9), None, INCEPTION, SMALL),
    ("mss", "no labels", images(30, labels=False), None, OTHER, SMALL),
    ("mss", "no two of the 3", images(3), None, OTHER, SMALL),
    ("fd", "4x4 pixels.*8x8", images(30), against(images(30, size=8)), OTHER, SMALL),
    ("vendi", "of x is 1", images(1), None, OTHER, SMALL),
    ("vendi", "not finite", dataclasses.replace(images(9), non_finite=(4,)), None, OTHER, SMALL),
    (
        *("fd", "y: 1 of 9 samples are not finite", images(9)),
        *(against(dataclasses.replace(images(9, name="y"), non_finite=(4,))), OTHER, SMALL),
    ),
]


@pytest.mark.parametrize(("name", "words", "samples", "reference", "extractor", "options"), REFUSED)
def test_what_would_mean_nothing_is_refused_before_features_are_made(
    name, words, samples, reference, extractor, options
):
    extractor.calls.clear()
    with pytest.raises(UserError, match=words):
        measure(samples, reference, extractor, (name,), options=options)
    assert not extractor.calls


def test_what_means_something_is_measured_by_default():
    def names(samples, reference, extractor):
        return chosen(None, samples, reference, extractor, SMALL)

    full = ("fid", "sfid", "is", "kid", "precision", "recall", "density", "coverage")
    many, real = images(30), against(images(30, 1))
    assert names(many, real, INCEPTION) == ((*full, "vendi", "mss"), {})
    found, left_out = names(images(30, labels=False), moments_only(), INCEPTION)
    assert found == ("fid", "is", "vendi")
    assert set(left_out) == {"sfid", *full[3:], "mss"}
    assert names(many, real, OTHER)[0] == ("fd", *full[3:], "vendi", "mss")
    assert names(images(4), None, OTHER)[0] == ("vendi", "mss")
    with pytest.raises(UserError, match="did you mean kid"):
        chosen(("kdi",), many, real, OTHER, SMALL)
    assert set(METRICS) >= set(full)


def test_python_measures_arrays_and_samples_and_paths(tmp_path):
    samples, real = images(30), images(30, 1).fetch(np.arange(30))
    given = jaxdiff.Samples(images=samples.fetch(np.arange(30)), cond={"label": np.arange(30) % 3})
    with mock.patch.object(module, "open_extractor", return_value=OTHER):
        found = jaxdiff.evaluate(given, real, ("fd", "mss"))
    assert list(found) == ["fd", "mss"]
    assert found["fd"].value == measured(samples, of_arrays(real), ("fd",), OTHER)["fd"].value
    assert "3 conditions" in found["mss"].note
    with mock.patch.object(module, "open_extractor", return_value=OTHER):
        of_jax = jaxdiff.evaluate(jnp.asarray(given.images), real, ("fd",))
        assert of_jax["fd"].value == found["fd"].value
        for name, value in (("kid_size", 1), ("reference_images", 1), ("kid_subsets", 2.5)):
            with pytest.raises(UserError, match=f"{name} is {value}"):
                jaxdiff.evaluate(given, real, **{name: value})
    np.savez(tmp_path / "small.npz", arr_0=real[:, 1:3, 1:3])
    framed = np.zeros_like(real)
    framed[:, 1:3, 1:3] = real[:, 1:3, 1:3]
    how = {"image_size": 4, "fit": "pad"}
    with mock.patch.object(module, "open_extractor", return_value=OTHER):
        found = jaxdiff.evaluate(framed, tmp_path / "small.npz", ("fd",), **how)
    assert found["fd"].value == pytest.approx(0, abs=1e-9)
    bad = dataclasses.replace(given, non_finite=np.array([2]))
    with (
        mock.patch.object(module, "open_extractor", return_value=OTHER),
        pytest.raises(UserError, match="1 of 30 samples are not finite"),
    ):
        jaxdiff.evaluate(bad, real)
