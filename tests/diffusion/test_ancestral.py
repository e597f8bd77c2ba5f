import numpy as np

from jaxdiff.config import ADM
from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level


def test_variance_preserving_steps_are_those_of_ho_et_al():
    betas = schedules.linear(1000)
    bar = np.cumprod(1 - betas)
    previous = np.append(1.0, bar[:-1])
    posterior = betas * (1 - previous) / (1 - bar)
    posterior[0] = posterior[1]
    got = Ancestral.through(AdmProcess(ADM(schedule="linear")).levels(""))
    np.testing.assert_allclose(got.log_large[::-1], np.log(betas), rtol=1e-5)
    np.testing.assert_allclose(got.log_small[::-1], np.log(posterior), rtol=1e-5)
    np.testing.assert_allclose(
        got.x0_weight[::-1], np.sqrt(previous) * betas / (1 - bar), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(
        got.x_weight[::-1], np.sqrt(1 - betas) * (1 - previous) / (1 - bar), rtol=1e-5, atol=1e-7
    )


def test_the_posterior_conserves_the_forward_process():
    """If x_a ~ q(x_a | x_0), then x_b drawn by a step has the mean and variance of q(x_b | x_0)."""
    levels = Level(np.array([0.2, 0.6, 1.0, 1.0]), np.array([0.98, 0.8, 0.5, 0.1]))
    steps = Ancestral.through(levels)
    for i in range(2):
        a, b = levels[i], levels[i + 1]
        mean = steps.x0_weight[i] + steps.x_weight[i] * a.alpha
        variance = (steps.x_weight[i] * a.sigma) ** 2 + np.exp(steps.log_small[i])
        np.testing.assert_allclose(mean, b.alpha, rtol=1e-5)
        np.testing.assert_allclose(variance, b.sigma**2, rtol=1e-5)


def test_a_single_step_has_finite_variances():
    steps = Ancestral.through(Level(np.array([0.1, 1.0]), np.array([0.99, 0.0])))
    assert np.isfinite(steps.log_small).all()
    np.testing.assert_allclose(steps.x0_weight, [1.0])
