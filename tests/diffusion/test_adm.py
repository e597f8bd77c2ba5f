import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.adm import Adm, variational_bound
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Condition, Level, diffuse

PROCESS = Adm(schedule=schedules.cosine, num_timesteps=1000)


def perfect(x0, process=PROCESS):
    """A network that knows x0: answers the noise of any x, with variance values of zero."""
    levels = process.levels("")

    def network(x, time, embedding):
        step = 999 - time.astype(int)
        alpha = jnp.asarray(levels.alpha, jnp.float32)[step][:, None]
        sigma = jnp.asarray(levels.sigma, jnp.float32)[step][:, None]
        eps = (x - alpha * x0) / sigma
        return jnp.concatenate([eps, jnp.zeros_like(eps)], -1)

    return network


def test_levels_start_at_noise_and_end_clean():
    levels = PROCESS.levels("10")
    assert levels.alpha.shape == (11,)
    assert levels.alpha.dtype == np.float64
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1)
    assert (np.diff(levels.sigma) < 0).all()
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


@pytest.mark.parametrize("schedule", [schedules.cosine, schedules.linear])
def test_every_timestep_is_found_from_its_level_in_any_scaling(schedule):
    process = Adm(schedule=schedule)
    levels = process.levels("")
    alpha, sigma = (jnp.asarray(a[:-1], jnp.float32) for a in (levels.alpha, levels.sigma))
    expected = np.arange(1000)[::-1]
    np.testing.assert_array_equal(process.timestep(Level(alpha, sigma)), expected)
    # As EDM scales it: alpha 1, sigma the ratio.
    rescaled = Level(jnp.ones(1000), sigma / alpha)
    np.testing.assert_array_equal(process.timestep(rescaled), expected)


def test_the_denoiser_does_not_depend_on_the_scaling():
    seen = []

    def network(x, time, embedding):
        seen.append((x, time))
        return jnp.concatenate([0.3 * x, 0.5 * x], -1)

    denoise = PROCESS.denoiser(network)
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 6))
    vp = PROCESS.levels("10")[4]
    ve = Level(1.0, vp.sigma / vp.alpha)
    levels = [jax.tree.map(jnp.float32, level) for level in (vp, ve)]
    a, b = (denoise(diffuse(x0, noise, level), level, Condition()) for level in levels)
    np.testing.assert_allclose(a.x0, b.x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a.variance_fraction, b.variance_fraction, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen[0][0], seen[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_a_perfect_network_is_denoised_perfectly():
    x0 = jax.random.uniform(jax.random.key(1), (4, 6), minval=-1)
    denoise = PROCESS.denoiser(perfect(x0))
    level = jax.tree.map(jnp.float32, PROCESS.levels("10")[3])
    x = diffuse(x0, jax.random.normal(jax.random.key(2), x0.shape), level)
    prediction = denoise(x, level, Condition())
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-4)
    np.testing.assert_array_equal(prediction.variance_fraction, np.full((4, 6), 0.5))


def test_simple_loss_is_the_mean_square_of_the_noise_for_a_network_of_zeros():
    process = Adm(schedule=schedules.linear, learn_variance=False, hybrid=False)
    x0 = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    draws = process.draw(jax.random.key(1), x0.shape)
    terms, quartile = process.losses(lambda x, t, e: jnp.zeros_like(x), x0, Condition(), draws)
    np.testing.assert_allclose(terms["loss"], (draws["noise"] ** 2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(quartile, draws["t"] // 250)
    assert set(terms) == set(process.terms)


def test_hybrid_loss_adds_the_bound_by_its_definition():
    x0 = jax.random.uniform(jax.random.key(0), (6, 8), minval=-1)
    draws = {
        "t": jnp.array([0, 1, 250, 500, 998, 999]),
        "noise": jax.random.normal(jax.random.key(1), x0.shape),
    }

    def network(x, t, e):
        return jnp.concatenate([0.9 * draws["noise"], 0.4 * jnp.ones_like(x)], -1)

    terms, _ = PROCESS.losses(network, x0, Condition(), draws)
    betas = schedules.cosine(1000)
    bar = np.cumprod(1 - betas)
    for n, t in enumerate([1, 250, 500, 998, 999], start=1):
        noise, clean = (np.asarray(a[n], np.float64) for a in (draws["noise"], x0))
        x = np.sqrt(bar[t]) * clean + np.sqrt(1 - bar[t]) * noise
        x0_hat = (x - np.sqrt(1 - bar[t]) * 0.9 * noise) / np.sqrt(bar[t])
        posterior = betas[t] * (1 - bar[t - 1]) / (1 - bar[t])
        log_variance = 0.7 * np.log(betas[t]) + 0.3 * np.log(posterior)
        # Ho et al. 2020, equation 7: the two means differ by the coefficient of x_0.
        difference = np.sqrt(bar[t - 1]) * betas[t] / (1 - bar[t]) * (x0_hat - clean)
        kl = 0.5 * (
            log_variance
            - np.log(posterior)
            - 1
            + (posterior + difference**2) / np.exp(log_variance)
        )
        np.testing.assert_allclose(terms["vb"][n], kl.mean() / np.log(2), rtol=2e-3)
    np.testing.assert_allclose(terms["loss"], terms["mse"] + terms["vb"], rtol=1e-6)


def test_the_bound_teaches_the_variance_and_not_the_mean():
    x0 = jax.random.uniform(jax.random.key(0), (3, 8), minval=-1)
    draws = PROCESS.draw(jax.random.key(1), x0.shape)

    def bound(values):
        eps, fraction = values
        output = jnp.concatenate([eps, fraction], -1)
        return PROCESS.losses(lambda *_: output, x0, Condition(), draws)[0]["vb"].sum()

    by_eps, by_fraction = jax.grad(bound)((0.5 * draws["noise"], jnp.zeros_like(x0)))
    np.testing.assert_array_equal(by_eps, 0)
    assert np.abs(by_fraction).min() > 0


def test_the_bound_at_timestep_zero_is_a_decoder_s_likelihood():
    ancestral = Ancestral.through(PROCESS.levels(""))
    x0 = jnp.array([[0.0, 0.5]])
    bits = variational_bound(ancestral, jnp.array([0]), x0, x0, x0, jnp.zeros_like(x0))
    # A sure and right decoder needs hardly any bits; a wrong one many.
    wrong = variational_bound(ancestral, jnp.array([0]), x0, x0, -x0, jnp.zeros_like(x0))
    assert 0 <= float(bits[0]) < float(wrong[0])


def test_draws_cover_all_timesteps():
    t = PROCESS.draw(jax.random.key(0), (50_000, 1))["t"]
    assert (int(t.min()), int(t.max())) == (0, 999)
    counts = np.bincount(t, minlength=1000)
    assert counts.min() > 15  # 50 expected, standard deviation 7
