import jax
import numpy as np
import pytest

from configs.toy_guide import get_config
from jaxdiff.config import Label
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from studies.toy import data


@pytest.fixture(scope="module")
def reference(goldens):
    with np.load(goldens / "toy.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("classes", ["A", "AB"])
def test_the_distribution_is_the_reference_s(classes, reference):
    mixture = data.distribution(classes)
    for field, name in (("weights", "weight"), ("means", "mean"), ("covariances", "covariance")):
        np.testing.assert_allclose(
            getattr(mixture, field), reference[f"{name}_{classes}"], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("classes", ["A", "AB"])
def test_densities_and_scores_are_the_reference_s(classes, reference):
    mixture = data.distribution(classes)
    x, sigma = (reference[name].astype(np.float32) for name in ("x", "sigma"))
    log_p, expected = mixture.log_density(x, sigma), reference[f"logp_{classes}"]
    np.testing.assert_allclose(log_p, expected, rtol=1e-4, atol=1e-4)
    score, expected = mixture.score(x, sigma), reference[f"score_{classes}"]
    norm = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(score - expected, axis=1) <= 1e-3 * norm).all()


def test_branches_are_the_classes_parts():
    means = data.branch_means("A")
    assert means.shape == (127, 2)
    np.testing.assert_allclose(means, data.distribution("A").means.reshape(127, 8, 2).mean(1))
    both = data.distribution("AB").means.reshape(254, 8, 2).mean(1)
    np.testing.assert_allclose(np.concatenate([means, data.branch_means("B")]), both)


def test_points_are_the_distribution_s():
    mixture, points = data.distribution("A"), data.points("A", "test")
    keys = jax.random.split(jax.random.key(0), len(points))
    for x in (points, mixture.sample(keys)):
        mean = (mixture.weights[:, None] * mixture.means).sum(0)
        np.testing.assert_allclose(np.mean(x, 0), mean, atol=0.02)
        # The mean log density of the truth's own samples, in 8192 of which it varies by .01.
        assert abs(float(mixture.log_density(np.asarray(x), 0.0).mean()) - 1.346) < 0.04


def test_training_reads_points_as_it_reads_images():
    config = get_config()
    source = open_split(config.data, "train", ()).in_memory()
    rows = source.fetch(np.arange(5))
    assert len(source) == 2**20
    assert (rows["x"].shape, rows["x"].dtype, rows["cond"]) == ((5, 2), np.float32, {})
    assert not np.isin(data.points("A", "train")[:, 0], data.points("A", "test")[:, 0]).all()
    with pytest.raises(UserError, match="validation"):
        open_split(config.data, "validation", ())
    with pytest.raises(UserError, match="label"):
        open_split(config.data, "train", (Label(2),))
