import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, DDPM, DPMpp, Heun
from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level, diffuse
from jaxdiff.diffusion.edm import sigmas
from jaxdiff.diffusion.parameterization import PREDICTIONS
from jaxdiff.diffusion.respacing import respace
from jaxdiff.models.condition import Condition

PROCESS = AdmProcess(ADM(num_timesteps=1000))


def perfect(x0, process=PROCESS):
    """A network of the exact noise of any x, for a given x0, and variance values of zero."""
    levels = process.levels("")

    def network(x, time, condition, dropout=None):
        step = 999 - time.astype(int)
        alpha = jnp.asarray(levels.alpha, jnp.float32)[step][:, None]
        sigma = jnp.asarray(levels.sigma, jnp.float32)[step][:, None]
        eps = (x - alpha * x0) / sigma
        return jnp.concatenate([eps, jnp.zeros_like(eps)], -1)

    return network


def losses(process, network, x0, draws, steps=""):
    """`process.losses`, compiled as one program."""
    return jax.jit(lambda x0: process.losses(network, x0, Condition(), draws, steps))(x0)


def test_levels_start_at_noise_and_end_clean():
    levels = PROCESS.levels("10")
    assert levels.alpha.shape == (11,)
    assert levels.alpha.dtype == np.float64
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1)
    assert (np.diff(levels.sigma) < 0).all()
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_every_timestep_is_found_from_its_level_in_any_scaling(schedule):
    process = AdmProcess(ADM(schedule=schedule))
    levels = process.levels("")
    alpha, sigma = (jnp.asarray(a[:-1], jnp.float32) for a in (levels.alpha, levels.sigma))
    expected = np.arange(1000)[::-1]
    np.testing.assert_array_equal(process.timestep(Level(alpha, sigma)), expected)
    # As EDM scales it: alpha 1, sigma the ratio.
    rescaled = Level(jnp.ones(1000), sigma / alpha)
    np.testing.assert_array_equal(process.timestep(rescaled), expected)


def test_the_denoiser_does_not_depend_on_the_scaling():
    seen = []

    def network(x, time, condition, dropout=None):
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
    process = AdmProcess(ADM(schedule="linear", variance="fixed_large", loss="simple"))
    x0 = jax.random.normal(jax.random.key(0), (5, 4, 4, 1))
    draws = process.draw(jax.random.key(1), x0.shape)
    terms, quartile = losses(process, lambda x, *_: jnp.zeros_like(x), x0, draws)
    np.testing.assert_allclose(terms["loss"], (draws["noise"] ** 2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(quartile, draws["t"] // 250)
    assert set(terms) == set(process.terms)


def test_hybrid_loss_adds_the_bound_by_its_definition():
    x0 = jax.random.uniform(jax.random.key(0), (6, 8), minval=-1)
    draws = {
        "t": jnp.array([0, 1, 250, 500, 998, 999]),
        "noise": jax.random.normal(jax.random.key(1), x0.shape),
    }

    def network(x, *_):
        return jnp.concatenate([0.9 * draws["noise"], 0.4 * jnp.ones_like(x)], -1)

    terms, _ = losses(PROCESS, network, x0, draws)
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


def test_the_bound_trains_the_variance_and_not_the_mean():
    x0 = jax.random.uniform(jax.random.key(0), (3, 8), minval=-1)
    draws = PROCESS.draw(jax.random.key(1), x0.shape)

    def bound(values):
        eps, fraction = values
        output = jnp.concatenate([eps, fraction], -1)
        return PROCESS.losses(lambda *_: output, x0, Condition(), draws)[0]["vb"].sum()

    by_eps, by_fraction = jax.jit(jax.grad(bound))((0.5 * draws["noise"], jnp.zeros_like(x0)))
    np.testing.assert_array_equal(by_eps, 0)
    assert np.abs(by_fraction).min() > 0


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_answers_the_target_is_denoised_perfectly(prediction):
    process = AdmProcess(ADM(prediction=prediction, variance="fixed_large"))
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 6))
    draws = {"t": jnp.array([0, 300, 600, 900]), "noise": noise}
    level = jax.tree.map(jnp.float32, process.levels(""))[999 - draws["t"]]
    target = PREDICTIONS[prediction].target(x0, noise, level)
    terms, _ = losses(process, lambda *_: target, x0, draws)
    np.testing.assert_allclose(terms["loss"], 0, atol=1e-10)
    # As EDM scales it: alpha 1, sigma the ratio.
    edm = Level(jnp.ones(4), level.ratio)
    predicted = process.denoiser(lambda *_: target)(diffuse(x0, noise, edm), edm, Condition())
    np.testing.assert_allclose(predicted.x0, x0, atol=2e-5)


def test_the_target_v_is_the_velocity_along_the_circle_of_levels():
    """Salimans & Ho 2022: v = dx / dphi for alpha = cos(phi), sigma = sin(phi)."""
    x0, noise = np.random.default_rng(0).standard_normal((2, 3, 5))
    phi, step = 0.7, 1e-4
    after, before = (np.cos(p) * x0 + np.sin(p) * noise for p in (phi + step / 2, phi - step / 2))
    v = PREDICTIONS["v"].target(x0, noise, Level(np.cos(phi), np.sin(phi)))
    np.testing.assert_allclose(v, (after - before) / step, rtol=1e-5)


def test_every_loss_is_made_of_its_terms():
    x0 = jax.random.uniform(jax.random.key(0), (4, 8), minval=-1)
    draws = {"t": jnp.array([0, 3, 7, 9]), "noise": jax.random.normal(jax.random.key(1), x0.shape)}

    def terms_of(loss, variance="learned_range"):
        process = AdmProcess(
            ADM(schedule="linear", num_timesteps=100, variance=variance, loss=loss)
        )
        channels = 16 if process.variance.learned else 8
        output = jnp.linspace(-0.5, 0.5, 4 * channels).reshape(4, channels)
        terms, quartile = losses(process, lambda *_: output, x0, draws, "10")
        assert set(terms) == set(process.terms)
        np.testing.assert_array_equal(quartile, [0, 1, 2, 3])
        return terms

    unscaled = terms_of("hybrid_unscaled")
    bits = unscaled["vb"]
    np.testing.assert_allclose(unscaled["loss"], unscaled["mse"] + bits, rtol=1e-6)
    # Ten steps are counted, and not the hundred that they are taken from.
    np.testing.assert_allclose(terms_of("hybrid")["vb"], bits * 10 / 1000, rtol=1e-6)
    vlb = terms_of("vlb")
    assert set(vlb) == {"loss", "vb"}
    np.testing.assert_allclose(vlb["loss"], bits * 10, rtol=1e-6)
    for loss in ("simple", "hybrid"):
        assert set(terms_of(loss, "fixed_small")) == {"loss", "mse"}
    assert (terms_of("vlb", "fixed_large")["loss"] != terms_of("vlb", "fixed_small")["loss"]).any()


def test_the_vlb_of_a_fixed_variance_trains_the_mean():
    process = AdmProcess(ADM(variance="fixed_small", loss="vlb"))
    x0 = jax.random.uniform(jax.random.key(0), (3, 8), minval=-1)
    draws = process.draw(jax.random.key(1), x0.shape)

    def loss(eps):
        return process.losses(lambda *_: eps, x0, Condition(), draws)[0]["loss"].sum()

    assert np.abs(jax.jit(jax.grad(loss))(0.5 * draws["noise"])).min() > 0


def test_on_a_respacing_the_network_sees_the_original_timesteps():
    process = AdmProcess(ADM(num_timesteps=100, rescale_timesteps=True))
    seen = []

    def network(x, time, condition, dropout=None):
        seen.append(time)
        return jnp.zeros((3, 8))

    x0 = jnp.zeros((3, 4))
    draws = {"t": jnp.array([0, 1, 4]), "noise": jnp.ones_like(x0)}
    process.losses(network, x0, Condition(), draws, steps="ddim5")
    level = jax.tree.map(jnp.float32, process.levels("ddim5"))[jnp.array([4, 3, 0])]
    process.denoiser(network)(x0, level, Condition())
    process.classifier(lambda x, time: network(x, time, None))(x0, level)
    # 0, 20 and 80 of 100 timesteps, as if they were 1000.
    np.testing.assert_allclose(seen, [[0, 200, 800]] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("variance", "expected"),
    [
        ("learned", [0.3] * 3),
        ("learned_range", ["mostly large"] * 3),
        ("fixed_small", ["posterior"] * 3),
        ("fixed_large", ["beta", "beta", "posterior"]),
    ],
)
def test_the_variances_of_a_step(variance, expected):
    betas = schedules.linear(1000)[::-1]
    bar = np.cumprod(1 - betas[::-1])[::-1]
    posterior = betas[:-1] * (1 - bar[1:]) / (1 - bar[:-1])
    posterior = np.append(posterior, posterior[-1])
    process = AdmProcess(ADM(schedule="linear", variance=variance))
    output = jnp.full((1, 4), 0.3) if process.variance.learned else jnp.full((1, 2), 0.3)
    ancestral = Ancestral.through(process.levels(""))
    for i, name in zip([0, 500, 999], expected, strict=True):
        level = jax.tree.map(jnp.float32, process.levels("")[i])
        prediction = process.denoiser(lambda *_: output)(jnp.ones((1, 2)), level, Condition())
        log_beta, log_posterior = np.log(betas[i]), np.log(posterior[i])
        values = {
            "mostly large": 0.65 * log_beta + 0.35 * log_posterior,
            "beta": log_beta,
            "posterior": log_posterior,
        }
        got = np.broadcast_to(ancestral.log_variance(i, prediction), (1, 2))
        np.testing.assert_allclose(got, np.full((1, 2), values.get(name, name)), rtol=1e-5)


def test_draws_cover_all_timesteps():
    t = PROCESS.draw(jax.random.key(0), (50_000, 1))["t"]
    assert (int(t.min()), int(t.max())) == (0, 999)
    counts = np.bincount(t, minlength=1000)
    assert counts.min() > 15  # 50 expected, standard deviation 7


def test_a_sigma_grid_keeps_to_the_levels_of_training():
    levels = PROCESS.sigma_levels(Heun(steps=32))
    own = PROCESS.levels("").ratio
    assert (levels.alpha == 1).all()
    assert levels.sigma[-1] == 0
    assert (np.diff(levels.sigma) < 0).all()
    assert np.isin(levels.sigma, own).all()
    # Every level that EDM asks for has its nearest among them.
    low = own[own > 0].min()
    asked = sigmas(32, low, 80, 7)[:-1]
    for sigma in asked:
        nearest = own[:-1][np.abs(np.log(own[:-1]) - np.log(sigma)).argmin()]
        assert nearest in levels.sigma
    assert levels.sigma[0] == own[:-1][np.abs(np.log(own[:-1]) - np.log(80)).argmin()]
    assert levels.sigma[-2] == low


def test_more_steps_than_levels_visit_each_level_once():
    process = AdmProcess(ADM(num_timesteps=10))
    levels = process.sigma_levels(Heun(steps=1000, sigma_min=1e-6, sigma_max=1e9))
    np.testing.assert_allclose(levels.sigma, process.levels("").ratio)


def test_a_sigma_grid_beyond_the_process_is_refused():
    with pytest.raises(ValueError, match="1e-06.*1e-05"):
        PROCESS.path(Heun(sigma_min=1e-6, sigma_max=1e-5))


def test_ddpm_and_ddim_visit_timesteps_and_others_the_sigma_grid():
    for sampler in (DDPM(steps="25,50"), DDIM(steps="25,50")):
        levels, time = PROCESS.path(sampler)
        np.testing.assert_array_equal(levels.sigma, PROCESS.levels("25,50").sigma)
        timesteps = np.round(time * 1000)
        np.testing.assert_array_equal(timesteps, respace(1000, "25,50")[::-1])
    for sampler in (Heun(steps=32), DPMpp(steps=32)):
        levels, time = PROCESS.path(sampler)
        np.testing.assert_array_equal(levels.sigma, PROCESS.sigma_levels(sampler).sigma)
        count = len(levels.sigma) - 1
        np.testing.assert_allclose(time, [1 - (i + 0.5) / count for i in range(count)])


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_sampling_starts_from_unit_noise_in_the_process_s_own_scaling(alpha):
    noise = jnp.arange(6.0).reshape(3, 2)
    level = Level(jnp.float32(alpha), jnp.float32(2 * alpha))
    x = PROCESS.start(None, noise, level) / (alpha * np.sqrt(5))
    np.testing.assert_allclose(x, noise, rtol=1e-6)
