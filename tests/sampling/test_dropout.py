"""Networks that are sampled with dropout: whose masks they are, and what does not take them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import CFG, Autoguidance, ClassifierGuidance, DPMpp
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.models.condition import Dropout
from jaxdiff.sampling.trained_model import load
from tests import history
from tests.runs import classifier, make_run, tiny

pytestmark = pytest.mark.usefixtures("alone")

SIGMA, SEED = 2.0, 3
ONE_STEP = DPMpp(steps=1, sigma_max=SIGMA, clip=False)  # from sigma to 0, which ends at D


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return history.make(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(run):
    return load(run, dropout=0.3)


def denoised(model, rate, place):
    """D at sigma_max, the network called by hand with masks of step 0 and this place."""
    keys = sample_keys(SEED, jnp.arange(5))
    x = SIGMA * normal(derived(keys, Purpose.START, 0), (8, 8, 1))
    d = model.config.diffusion.data_std
    total = SIGMA**2 + d**2
    output = model.network.apply(
        model.params,
        x / total**0.5,
        jnp.full(5, 1000 * np.log(SIGMA) / 4),
        model.network.embed(model.params, {"label": jnp.arange(5)}),
        Dropout(rate, derived(keys, Purpose.DROPOUT, 0, place)),
    )
    return np.asarray(d**2 / total * x + SIGMA * d / total**0.5 * output)


def test_masks_are_the_samples_own_and_each_network_has_others(run, model):
    guide = load(f"{run}@5:dropout=0.6")
    got = model.sample(5, SEED, sampler=ONE_STEP, guidance=Autoguidance(guide, 2.0)).x
    main = denoised(model, 0.3, 0)
    np.testing.assert_allclose(got, 2 * main - denoised(guide, 0.6, 1), atol=2e-4)
    assert np.abs(main - denoised(model, 0.3, 1)).max() > 0.01


def test_a_sample_is_the_same_in_every_batch(model):
    request = {"sampler": dataclasses.replace(ONE_STEP, steps=2), "guidance": CFG(2.0)}
    whole = model.sample(5, SEED, together=False, **request).x
    parts = model.sample(5, SEED, together=True, batch_size=2, **request).x
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_a_rate_is_named_and_0_is_no_dropout(run, model):
    assert str(model) == f"{run}@10:dropout=0.3"
    without, zero = (load(f"{run}{text}") for text in ("", ":dropout=0"))
    assert str(zero) == f"{run}@10"
    request = {"sampler": ONE_STEP, "seed": SEED}
    np.testing.assert_array_equal(zero.sample(5, **request).x, without.sample(5, **request).x)


def test_a_classifier_runs_without_dropout(tmp_path):
    judge = make_run(tmp_path / "classifier", classifier())
    model = load(make_run(tmp_path / "model", tiny.config()))
    with pytest.raises(UserError, match="dropout"):
        model.job(4, guidance=ClassifierGuidance(f"{judge}:dropout=.1"))
