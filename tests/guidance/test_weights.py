"""Oracles: the formulas, written out by hand."""

from math import cos, pi

import numpy as np
import pytest

from jaxdiff.config import ADM, CFG, ICG, Autoguidance, ClassifierGuidance, Heun, Schedule
from jaxdiff.config.guidance import SHAPES
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.guidance.weights import Steps, weights
from tests.closed_forms import edm_levels


def steps(count):
    return Steps(edm_levels(count).ratio[:-1], 1 - (np.arange(count) + 0.5) / count)


def scheduled(text, count, interval=None):
    """The weight 3 with the schedule that a text such as "dynamic,.4,.8" writes."""
    shape, *values = text.split(",")
    schedule = Schedule(shape, tuple(map(float, values)))
    return weights(CFG(3.0, interval, schedule), steps(count))


# Five steps: tau is .1, .3, .5, .7, .9, and the excess of the weight 3 is 2.
FORMULAS = {
    "static": [2, 2, 2, 2, 2],
    "linear": [0.4, 1.2, 2.0, 2.8, 3.6],
    "invlinear": [3.6, 2.8, 2.0, 1.2, 0.4],
    "cosine": [2 * (1 - cos(pi * t)) for t in (0.1, 0.3, 0.5, 0.7, 0.9)],
    "sine": [2 * (1 + cos(pi * t)) for t in (0.1, 0.3, 0.5, 0.7, 0.9)],
    "v": [3.2, 1.6, 0, 1.6, 3.2],
    "lambda": [0.8, 2.4, 4.0, 2.4, 0.8],
    "clamp-linear,1.5": [1.5, 1.5, 2.0, 2.8, 3.6],
    "clamp-cosine,1.5": [1.5, 1.5, 2.0, 2 * (1 - cos(0.7 * pi)), 2 * (1 - cos(0.9 * pi))],
    "power-cosine,4": [1 - cos(pi * t) for t in (0.0001, 0.0081, 0.0625, 0.2401, 0.6561)],
}
# 3 gamma at the times .9, .7, .5, .3, .1.
DYNAMIC = {
    "dynamic,.4,.8": [0, 0.75, 2.25, 3, 3],
    "dynamic,.5,.5": [0, 0, 3, 3, 3],
    "dynamic,0,1": [0.3, 0.9, 1.5, 2.1, 2.7],
}


@pytest.mark.parametrize("text", FORMULAS)
def test_schedules_shape_the_excess(text):
    np.testing.assert_allclose(scheduled(text, 5) - 1, FORMULAS[text], atol=1e-12)


@pytest.mark.parametrize("text", DYNAMIC)
def test_dynamic_guidance_multiplies_the_weight_itself(text):
    np.testing.assert_allclose(scheduled(text, 5), DYNAMIC[text], atol=1e-12)


def test_every_schedule_has_its_formula_here():
    assert {text.split(",")[0] for text in (*FORMULAS, *DYNAMIC)} == set(SHAPES)


@pytest.mark.parametrize("name", ["static", "linear", "invlinear", "cosine", "sine"])
@pytest.mark.parametrize("count", [1, 5, 32])
def test_the_mean_is_kept(name, count):
    np.testing.assert_allclose(scheduled(name, count).mean(), 3, rtol=1e-12)


@pytest.mark.parametrize("name", ["v", "lambda"])
def test_v_and_lambda_keep_the_mean_of_even_counts(name):
    for count in (2, 6, 32):
        np.testing.assert_allclose(scheduled(name, count).mean(), 3, rtol=1e-12)
    assert abs(scheduled(name, 5).mean() - 3) > 0.05


@pytest.mark.parametrize("text", ["clamp-linear,1.5", "clamp-cosine,1.5", "power-cosine,4"])
def test_clamped_kinds_and_power_cosine_do_not_keep_it(text):
    assert abs(scheduled(text, 32).mean() - 3) > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_of_1_stays_off_under_every_schedule_but_dynamic(shape):
    values = (0.5,) * len(SHAPES[shape])
    off = weights(CFG(1.0, schedule=Schedule(shape, values)), steps(8)) == 1
    assert off.all() or shape == "dynamic"


@pytest.mark.parametrize("text", [*FORMULAS, *DYNAMIC])
def test_outside_its_interval_a_schedule_is_off(text):
    plain, gated = scheduled(text, 32), scheduled(text, 32, (0.19, 1.61))
    # The published interval holds the steps 17 to 22 of 32.
    np.testing.assert_array_equal(gated[17:23], plain[17:23])
    np.testing.assert_array_equal(np.delete(gated, range(17, 23)), 1.0)


def test_an_interval_holds_its_upper_end_and_not_its_lower_one():
    own = Steps(np.array([4.0, 2.0, 1.0]), np.zeros(3))
    for spec in (CFG, ICG):
        np.testing.assert_array_equal(weights(spec(7.0, (1.0, 2.0)), own), [1, 7, 1])
    guide = Autoguidance("runs/a", 7.0, interval=(1.0, np.inf))
    np.testing.assert_array_equal(weights(guide, own), [7, 7, 1])
    classifier = ClassifierGuidance("runs/a", 7.0, (1.0, 2.0))
    np.testing.assert_array_equal(weights(classifier, own), [0, 7, 0])


def test_on_the_levels_of_a_trained_process_an_interval_holds_other_steps():
    """Its smallest level is above .002, so the grid is drawn up and its steps move."""
    levels, time = AdmProcess(ADM()).path(Heun(steps=32))
    np.testing.assert_allclose(levels.ratio[-2], 0.0064, atol=5e-5)
    own = Steps(levels.ratio[:-1], time)
    inside = np.flatnonzero(weights(CFG(3.0, (0.19, 1.61)), own) != 1)
    assert list(inside) != list(range(17, 23))
    assert all(0.19 < s <= 1.61 for s in own.ratio[inside])
    assert own.ratio[inside[0] - 1] > 1.61
    assert own.ratio[inside[-1] + 1] <= 0.19
