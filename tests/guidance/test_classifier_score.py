import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, DDPM
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.denoiser import Level, Prediction
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.loop import sample
from tests.guided import unguided, with_classifier

PROCESS = AdmProcess(ADM())
# Two classes, N(+-MEAN, STD^2), equally likely.
MEAN, STD = 0.5, 0.1


def classifier(x, level):
    """The exact log p(y, x) of the classes -MEAN and MEAN, in closed form."""
    means = jnp.array([-MEAN, MEAN]) * level.alpha
    return -0.5 * (x - means) ** 2 / (level.alpha**2 * STD**2 + level.sigma**2)


def mixture(x, level, condition, dropout=None):
    """E[x0 | x] of both classes."""
    alpha, variance = level.alpha, level.alpha**2 * STD**2 + level.sigma**2
    share = jax.nn.softmax(classifier(x, level))
    means = jnp.array([-MEAN, MEAN])
    each = means + alpha * STD**2 / variance * (x - alpha * means)
    return Prediction((share * each).sum(1, keepdims=True))


@pytest.mark.parametrize(
    "sampler", [DdpmSampler(DDPM()), DdimSampler(DDIM())], ids=["ddpm", "ddim"]
)
def test_the_exact_classifier_turns_the_mixture_into_one_class(sampler):
    labels = jnp.arange(4000) % 2
    grid = sampler.grid(PROCESS.levels("250"))
    keys = sample_keys(0, jnp.arange(4000))
    x = jax.random.normal(jax.random.key(1), (4000, 1))

    @jax.jit
    def run(scale):
        guidance = with_classifier(mixture, classifier, labels, scale, grid.num_steps)
        return sample(sampler, grid, guidance, x, keys)

    samples = run(1.0)[:, 0]
    for label, mean in enumerate([-MEAN, MEAN]):
        chosen = samples[labels == label]
        assert abs(float(chosen.mean()) - mean) < 0.02
        assert abs(float(chosen.std()) - STD) < 0.01
    # The scale is a value: another one is no other program, and 0 is no guidance.
    plain = sample(sampler, grid, unguided(mixture), x, keys)
    np.testing.assert_allclose(run(0.0), plain, atol=1e-5)
    assert run._cache_size() == 1


def test_the_gradient_is_by_the_x_passed_in():
    """The chain rule through the scaling: d/dx at (c x, c alpha, c sigma) is 1 / c of that at x."""

    def network(x, time):
        logits = jnp.stack([x.sum(1), jnp.sin(3 * x).sum(1), (x**2).sum(1)], -1)
        return (time == 555)[:, None] * logits  # the timestep of the level below

    x = jax.random.normal(jax.random.key(0), (3, 4))
    labels = jnp.array([0, 1, 2])
    vp = jax.tree.map(jnp.float32, PROCESS.levels("10")[4])
    ve = Level(jnp.ones(()), vp.ratio)
    classify = PROCESS.classifier(network)
    gradient = jax.jit(label_gradient(classify, labels))
    at_vp, at_ve = gradient(x, vp), gradient(x / vp.alpha, ve)
    np.testing.assert_allclose(at_ve, vp.alpha * at_vp, rtol=1e-4, atol=1e-6)

    def log_p(x, label):
        logits = network(x[None], jnp.array([555]))[0]
        return logits[label] - jax.nn.logsumexp(logits)

    expected = jax.jit(jax.vmap(jax.grad(log_p)))(x, labels)
    np.testing.assert_allclose(at_vp, expected, rtol=1e-4, atol=1e-6)
