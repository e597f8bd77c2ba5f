import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.checkpoints.power_ema import gamma
from jaxdiff.training.averages import power_share, profiles, warm_decay
from tests import tiny


@pytest.mark.parametrize(
    ("decay", "expected"), [(0.9999, (0.1, 0.5, 1001 / 1010)), (0.3, (0.1, 0.3, 0.3))]
)
def test_the_traditional_average_warms_up(decay, expected):
    got = [float(warm_decay(decay, step)) for step in (0, 8, 1000)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(("sigma_rel", "expected"), [(0.05, 16.97), (0.10, 6.94), (0.288675, 0.0)])
def test_gammas_of_the_paper(sigma_rel, expected):
    assert abs(gamma(sigma_rel) - expected) < 0.005


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_the_width_of_a_profile_is_what_names_it(sigma_rel):
    g = gamma(sigma_rel)
    # The density (g + 1) t^g on [0, 1] has these moments.
    mean, second = (g + 1) / (g + 2), (g + 1) / (g + 3)
    np.testing.assert_allclose(np.sqrt(second - mean**2), sigma_rel, rtol=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_the_average_weighs_steps_as_the_profile_does(sigma_rel):
    steps, exponent = 1000, gamma(sigma_rel) + 1
    # Parameters of step t are the t-th unit vector, so that the average is the list of weights.
    average = np.full(steps + 1, np.nan)  # What it starts from is forgotten.
    for step in range(steps):
        share = float(power_share(exponent - 1, step))
        average = (0 if share == 1 else (1 - share) * average) + share * np.eye(steps + 1)[step + 1]
    t = np.arange(steps + 1) / steps
    np.testing.assert_allclose(average[1:], np.diff(t**exponent), rtol=1e-4, atol=1e-9)
    assert average[0] == 0
    mean = average @ t
    np.testing.assert_allclose(np.sqrt(average @ (t - mean) ** 2), sigma_rel, rtol=0.01)


def test_shares_late_in_training_keep_their_digits():
    for step in (10**5, 10**6, 10**7):
        expected = -np.expm1(17.97 * np.log1p(-1 / (step + 1)))
        np.testing.assert_allclose(power_share(16.97, step), expected, rtol=1e-5)


def test_power_profiles_take_the_place_of_the_traditional_one():
    training = tiny.config().training
    assert list(profiles(training)) == ["0.995"]
    np.testing.assert_allclose(profiles(training)["0.995"](jnp.int32(8)), 0.5)
    training = tiny.config(training__power_ema=(0.05, 0.1)).training
    assert list(profiles(training)) == ["power_0.05", "power_0.1"]
    np.testing.assert_allclose(profiles(training)["power_0.1"](jnp.int32(0)), 1)
    np.testing.assert_allclose(
        profiles(training)["power_0.1"](jnp.int32(1)), 1 - 0.5 ** (gamma(0.1) + 1)
    )
