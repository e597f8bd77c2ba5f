"""Oracle: the flow of Gaussian data is known, so an error has an order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, DDPM, EDM, DPMpp, Heun
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.denoiser import Level, Prediction
from jaxdiff.diffusion.edm import EdmProcess
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.heun import HeunSampler
from tests.closed_forms import ONE, edm_levels, preserving
from tests.guided import sampled

PROCESS = AdmProcess(ADM())


def run(sampler, levels, x, denoiser=ONE):
    return sampled(sampler, denoiser, levels, x)


def start(levels, count=32):
    quantiles = jnp.linspace(-2, 2, count)[:, None]
    return quantiles * np.float32(np.hypot(levels.alpha[0], levels.sigma[0]))


def adm_timesteps(count):
    return PROCESS.levels(str(count))


def adm_sigmas(count):
    return preserving(PROCESS.sigma_levels(Heun(steps=count)))


@pytest.mark.parametrize(
    ("sampler", "order", "levels"),
    [
        (DdimSampler(DDIM(clip=False)), 1, edm_levels),
        (DdimSampler(DDIM(clip=False)), 1, adm_timesteps),
        (HeunSampler(Heun(clip=False), corrected=False), 1, edm_levels),
        (HeunSampler(Heun(clip=False)), 2, edm_levels),
        (HeunSampler(Heun(clip=False)), 2, adm_sigmas),
        (DpmppSampler(DPMpp(clip=False)), 2, edm_levels),
        (DpmppSampler(DPMpp(clip=False)), 2, adm_sigmas),
    ],
)
def test_the_error_falls_with_the_samplers_order(sampler, order, levels):
    paths = [levels(count) for count in (16, 64)]
    errors = []
    for path in paths:
        x = start(path)
        errors.append(np.abs(run(sampler, path, x) - ONE.flow(x, path[0])).max())
    steps = [len(path.sigma) - 1 for path in paths]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.35, errors


def small_variance(x, level, condition, dropout=None):
    """The largest variance, beta, is not the same in every scaling; the posterior's is."""
    return Prediction(ONE(x, level).x0, jnp.zeros_like(x))


@pytest.mark.parametrize(
    "sampler",
    [
        DdpmSampler(DDPM()),
        DdimSampler(DDIM(eta=0.5)),
        HeunSampler(Heun(churn=3.0)),
        DpmppSampler(DPMpp()),
    ],
    ids=lambda s: type(s).__name__,
)
def test_on_levels_of_any_scaling_samples_are_the_same(sampler):
    plain = edm_levels(12)
    scale = np.random.RandomState(0).uniform(0.2, 3, 13)
    scaled = Level(scale * plain.alpha, scale * plain.sigma)
    expected = run(sampler, plain, start(plain), small_variance)
    actual = run(sampler, scaled, start(plain) * np.float32(scale[0]), small_variance)
    np.testing.assert_allclose(actual / np.float32(scale[-1]), expected, atol=1e-4)


@pytest.mark.parametrize("count", [18, 50])
def test_ddpm_draws_from_gaussian_data_on_the_levels_of_sigma(count):
    """From a good start the variance of a step is right for these data, so it stays right."""
    levels = EdmProcess(EDM(data_std=ONE.std)).path(DDPM(steps=count))[0]
    np.testing.assert_allclose(levels.alpha**2 * ONE.std**2 + levels.sigma**2, ONE.std**2)
    np.testing.assert_allclose(levels.ratio, edm_levels(count).ratio)
    x = ONE.std * jax.random.normal(jax.random.key(0), (20_000, 1))
    samples = run(DdpmSampler(DDPM(clip=False)), levels, x)
    assert abs(samples.mean() - 0.4) < 0.01
    assert abs(samples.std() / ONE.std - 1) < 0.02  # it is known to .005


def test_ddim_and_euler_are_one_method():
    levels = edm_levels(8)
    ddim = run(DdimSampler(DDIM()), levels, start(levels))
    euler = run(HeunSampler(Heun(), corrected=False), levels, start(levels))
    np.testing.assert_allclose(ddim, euler, atol=1e-5)


def test_two_steps_of_dpmpp_are_the_papers():
    """Algorithm 2 with alpha 1 by hand: t_0, t_1 and then the clean end, of a linear denoiser."""
    levels = edm_levels(3, 0.5, 8.0)
    s, d, x = levels.sigma, [], np.array([1.7, -0.3])

    def predict(x, s):
        gain = 0.09 / (0.09 + s**2)
        return 0.4 + gain * (x - 0.4)

    h = np.log(s[:2] / s[1:3])
    d.append(predict(x, s[0]))
    x_1 = s[1] / s[0] * x - np.expm1(-h[0]) * d[0]
    d.append(predict(x_1, s[1]))
    r = h[0] / h[1]
    x_2 = s[2] / s[1] * x_1 - np.expm1(-h[1]) * ((1 + 1 / (2 * r)) * d[1] - d[0] / (2 * r))
    expected = predict(x_2, s[2])
    actual = run(DpmppSampler(DPMpp(clip=False)), levels, jnp.float32(x)[:, None])[:, 0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
