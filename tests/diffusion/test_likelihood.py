import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.likelihood import discretized_log_likelihood, normal_kl


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
