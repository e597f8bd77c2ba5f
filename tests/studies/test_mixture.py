import jax
import jax.numpy as jnp
import numpy as np
import pytest

from studies.toy.mixture import GaussianMixture


@pytest.fixture(scope="module", params=[1, 3])
def mixture(request):
    """Four components in as many dimensions as the parameter says."""
    random, size = np.random.default_rng(request.param), request.param
    roots = random.standard_normal((4, size, size))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(size)
    return GaussianMixture(
        np.array([0.1, 0.2, 0.3, 0.4]), 2 * random.standard_normal((4, size)), covariances
    )


def compiled(method):
    """A method as one program, in which the mixture is a constant, and so in float64."""
    return jax.jit(lambda *args: method(*args))


def points(mixture, count=300):
    random = np.random.default_rng(9)
    x = 2 * random.standard_normal((count, mixture.means.shape[1])).astype(np.float32)
    return x, np.exp(random.uniform(-3, 2, count)).astype(np.float32)


def test_the_density_is_the_sum_of_its_components(mixture):
    x, sigma = points(mixture)
    size = x.shape[1]
    total = 0
    for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        c = c + sigma[:, None, None] ** 2 * np.eye(size)
        d = (x - m)[:, :, None]
        exponent = (d * np.linalg.solve(c, d)).sum((1, 2)) + np.log(np.linalg.det(c))
        total += w * np.exp(-0.5 * exponent) / (2 * np.pi) ** (size / 2)
    log_density = compiled(mixture.log_density)(x, sigma)
    np.testing.assert_allclose(log_density, np.log(total), rtol=1e-4, atol=1e-4)


def test_the_score_is_the_density_s_gradient(mixture):
    x, sigma = points(mixture)
    gradient = jax.jit(jax.grad(lambda x: mixture.log_density(x, sigma).sum()))(jnp.asarray(x))
    score = compiled(mixture.score)(x, sigma)
    np.testing.assert_allclose(score, gradient, rtol=1e-3, atol=1e-3)


def test_the_denoiser_is_tweedie_s(mixture):
    x, sigma = points(mixture)
    expected = x + sigma[:, None] ** 2 * np.asarray(compiled(mixture.score)(x, sigma))
    np.testing.assert_allclose(compiled(mixture.denoiser)(x, sigma), expected, atol=1e-3)


def test_a_noise_level_may_be_for_all(mixture):
    x, _ = points(mixture)
    same = np.full(len(x), 0.5, np.float32)
    np.testing.assert_array_equal(mixture.score(x, 0.5), mixture.score(x, same))


def test_samples_have_the_moments_of_the_mixture(mixture):
    keys = jax.random.split(jax.random.key(0), 20_000)
    x = np.asarray(compiled(mixture.sample)(keys))
    mean = mixture.weights @ mixture.means
    second = np.einsum(
        "k,kij->ij",
        mixture.weights,
        mixture.covariances + mixture.means[:, :, None] * mixture.means[:, None],
    )
    size = np.sqrt(np.trace(second))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05 * size)
    np.testing.assert_allclose(x.T @ x / len(x), second, atol=0.05 * size**2)


def test_a_sample_is_its_key_s(mixture):
    keys = jax.random.split(jax.random.key(0), 5)
    sample = compiled(mixture.sample)
    np.testing.assert_array_equal(sample(keys)[3:], sample(keys[3:]))


def test_it_may_be_an_argument_of_a_jitted_function(mixture):
    x, sigma = points(mixture)
    moved = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mixture)
    score = jax.jit(lambda mixture, x, sigma: mixture.score(x, sigma))(moved, x, sigma)
    np.testing.assert_allclose(score, mixture.score(x, sigma), rtol=1e-2, atol=1e-3)
