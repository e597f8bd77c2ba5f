import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level, Prediction
from jaxdiff.diffusion.variational_bound import (
    bits_per_dimension,
    discretized_log_likelihood,
    normal_kl,
    prior_bits,
    variational_bound,
)

PROCESS = AdmProcess(ADM())


def test_kl_of_a_gaussian_with_itself_is_zero():
    assert normal_kl(0.3, -1.0, 0.3, -1.0) == 0


def test_kl_equals_the_integral():
    mean1, std1, mean2, std2 = 0.2, 0.5, -0.4, 0.9
    x = np.linspace(-8, 8, 400_001)

    def log_density(mean, std):
        return -0.5 * ((x - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))

    p, q = log_density(mean1, std1), log_density(mean2, std2)
    integral = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
    kl = normal_kl(mean1, 2 * np.log(std1), mean2, 2 * np.log(std2))
    np.testing.assert_allclose(kl, integral, rtol=1e-5)


def test_the_probabilities_of_all_pixel_values_sum_to_one():
    values = jnp.arange(256) / 127.5 - 1
    for mean, log_variance in [(0.1, -3.0), (-1.0, -6.0), (0.97, -9.0)]:
        log_p = discretized_log_likelihood(values, mean, log_variance)
        np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, atol=1e-4)


def test_impossible_values_are_floored():
    log_p = discretized_log_likelihood(jnp.array(0.5), -1.0, -12.0)
    np.testing.assert_allclose(log_p, np.log(1e-12), rtol=1e-6)


def test_the_last_step_s_bound_is_a_decoder_s_likelihood():
    ancestral = Ancestral.through(PROCESS.levels(""))
    x0 = jnp.array([[0.0, 0.5]])
    last = jnp.array([999])
    right, wrong = (
        variational_bound(ancestral, last, x0, x0, Prediction(guess, jnp.zeros_like(x0)))
        for guess in (x0, -x0)
    )
    # A sure and right decoder needs hardly any bits; a wrong one many.
    assert 0 <= float(right[0]) < float(wrong[0])


def test_a_model_that_knows_the_data_needs_the_decoder_s_bits_alone():
    x0 = jnp.round(jax.random.uniform(jax.random.key(0), (3, 8), maxval=255)) / 127.5 - 1
    noises = jax.random.normal(jax.random.key(1), (20, 3, 8))

    def denoise(x, level):
        return Prediction(x0, variance_fraction=jnp.zeros_like(x0))

    levels = PROCESS.levels("20")
    bits = jax.jit(lambda: bits_per_dimension(denoise, levels, x0, lambda i: noises[i]))()
    np.testing.assert_allclose(bits["vb"][:, :-1], 0, atol=1e-5)
    decoder = -discretized_log_likelihood(x0, x0, Ancestral.through(levels).log_small[-1])
    np.testing.assert_allclose(bits["vb"][:, -1], decoder.mean(1) / np.log(2), rtol=1e-4)
    np.testing.assert_allclose(bits["total_bpd"], bits["vb"].sum(1) + bits["prior_bpd"])
    np.testing.assert_array_equal(bits["xstart_mse"], 0)
    np.testing.assert_allclose(bits["mse"], 0, atol=1e-5)


def test_the_bound_of_gaussian_data_is_its_gain_in_signal_times_the_smallest_error():
    """Kingma et al. 2021 (arXiv:2107.00630), equation 14: (SNR_b - SNR_a) / 2 * E|x0 - x0_hat|^2.

    The best model's error is 1 / (SNR_a + 1 / std^2).
    """
    mean, std = 0.1, 0.25
    x0 = mean + std * jax.random.normal(jax.random.key(0), (64, 64))

    def denoise(x, level):
        gain = level.alpha * std**2 / (level.alpha**2 * std**2 + level.sigma**2)
        return Prediction(mean + gain * (x - level.alpha * mean), jnp.zeros_like(x))

    def noise(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), i), x0.shape)

    levels = PROCESS.levels("50")
    bits = jax.jit(lambda: bits_per_dimension(denoise, levels, x0, noise, clip=False))()
    snr = 1 / levels.ratio[:-1] ** 2
    expected = np.diff(snr) / 2 / (snr[:-1] + 1 / std**2) / np.log(2)
    np.testing.assert_allclose(bits["vb"][:, :-1].mean(0), expected, rtol=0.1)
    np.testing.assert_allclose(bits["vb"][:, :-1].mean(0).sum(), expected.sum(), rtol=0.02)


def test_the_prior_is_paid_for_where_the_last_level_keeps_some_of_the_data():
    alpha, x0 = 0.6, jnp.array([[0.5, -1.0]])
    kl = 0.5 * (0.64 - 1 - np.log(0.64) + (alpha * np.array([0.5, -1.0])) ** 2)
    expected = kl.mean() / np.log(2)
    np.testing.assert_allclose(prior_bits(Level(alpha, 0.8), x0), [expected], rtol=1e-5)
    assert prior_bits(PROCESS.levels("")[0], x0)[0] == pytest.approx(0, abs=1e-6)
