import numpy as np
import pytest

from jaxdiff.diffusion.edm import sigmas
from jaxdiff.errors import UserError


def test_levels_fall_from_the_largest_to_the_smallest_and_then_0():
    levels = sigmas(18, 0.002, 80, 7)
    assert levels.dtype == np.float64
    assert levels.shape == (19,)
    assert (np.diff(levels) < 0).all()
    np.testing.assert_allclose(levels[[0, 17, 18]], [80, 0.002, 0])


def test_roots_of_levels_are_evenly_spaced():
    roots = sigmas("9", 0.1, 5, 3)[:-1] ** (1 / 3)
    np.testing.assert_allclose(np.diff(roots), (0.1 ** (1 / 3) - 5 ** (1 / 3)) / 8)


def test_one_step_is_the_largest_level():
    np.testing.assert_allclose(sigmas(1, 0.002, 80, 7), [80, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0.002, 80, 7), "at least 1"),
        (("ddim25", 0.002, 80, 7), "'ddim25' is no number of steps"),
        ((32, 80, 80, 7), "sigma_min the smaller one"),
        ((32, 0, 80, 7), "must be positive"),
        ((32, 0.002, float("inf"), 7), "sigma_max is inf"),
        ((32, float("nan"), 80, 7), "sigma_min is nan"),
        ((32, 0.002, 80, 0), "rho is 0"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        sigmas(*arguments)
