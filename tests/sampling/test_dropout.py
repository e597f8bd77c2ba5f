"""Networks that are sampled with dropout: whose masks they are, and what does not take them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.checkpoints.run import read_ema, resolve
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.evaluation import bits
from jaxdiff.parallel.mesh import make_mesh, replicated
from jaxdiff.sampling import run_sampling
from tests import history, tiny
from tests.sampling.test_job import make_run

pytestmark = pytest.mark.usefixtures("alone")

SIGMA, SEED, NUMBERS = 2.0, 3, np.arange(5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return history.make(tmp_path_factory.mktemp("runs") / "run", sampling__clip=False)


def samples(run, batch_size=5, **fields):
    request = run_sampling.Request(
        model=run, out="", num_samples=5, batch_size=batch_size, sigma_max=SIGMA, **fields
    )
    prepared = run_sampling.prepare(request)
    return prepared.samples(prepared.params(), SEED, NUMBERS, quiet=True)


def denoised(run, step, rate, place):
    """D at sigma_max, the network called by hand with masks of step 0 and this place."""
    config, reference = resolve(run).run.config(), resolve(f"{run}@{step}")
    network, process = factory.network(config), factory.process(config)
    shardings = jax.tree.map(lambda _: replicated(make_mesh()), network.shapes)
    params = read_ema(reference, network.shapes, shardings)
    keys = sample_keys(SEED, jnp.asarray(NUMBERS))
    x = SIGMA * normal(derived(keys, Purpose.START, 0), (8, 8, 1))
    total = SIGMA**2 + process.data_std**2
    output = network.apply(
        params,
        x / total**0.5,
        jnp.full(5, 1000 * np.log(SIGMA) / 4),
        network.embed(params, jnp.asarray(NUMBERS, jnp.int32)),
        drop_rate=rate,
        drop_keys=derived(keys, Purpose.DROPOUT, 0, place),
    )
    d = process.data_std
    return np.asarray(d**2 / total * x + SIGMA * d / total**0.5 * output)


def test_masks_are_the_samples_own_and_each_network_has_others(run):
    # One step from sigma to 0 ends at D.
    got = samples(f"{run}:dropout=.3", steps="1", guide=(f"{run}@5:dropout=0.6",), weight=(2.0,))
    main, guide = denoised(run, 10, 0.3, 0), denoised(run, 5, 0.6, 1)
    np.testing.assert_allclose(got, 2 * main - guide, atol=2e-4)
    assert np.abs(main - denoised(run, 10, 0.3, 1)).max() > 0.01


def test_a_sample_is_the_same_in_every_batch(run):
    model, fields = f"{run}:dropout=.2", {"steps": "2", "cfg": 2.0}
    whole = samples(model, together=False, **fields)
    np.testing.assert_allclose(samples(model, 2, together=True, **fields), whole, atol=1e-4)


def test_a_rate_of_0_is_no_dropout(run):
    np.testing.assert_array_equal(samples(f"{run}:dropout=0", steps="1"), samples(run, steps="1"))


def test_a_reference_says_its_rate(run):
    assert str(resolve(f"{run}:dropout=.05,ema=.1")) == f"{run}@10:ema=0.1,dropout=0.05"
    assert str(resolve(f"{run}:dropout=0")) == f"{run}@10"


def test_what_has_no_dropout_refuses_it(tmp_path):
    fields = {"model__kind": "classifier", "diffusion__label_dropout": 0.0}
    classifier = make_run(tmp_path / "classifier", tiny.config(**fields))
    model = make_run(tmp_path / "model", tiny.config())
    request = run_sampling.Request(model=model, out="", classifier=f"{classifier}:dropout=.1")
    with pytest.raises(UserError, match="of the kind classifier.*leave dropout out"):
        run_sampling.prepare(request)
    with pytest.raises(UserError, match="dropout, and only a network without has a likelihood"):
        bits.run(bits.Request(model=f"{model}:dropout=.1", split="test"))
