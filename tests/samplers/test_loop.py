import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import DDIM, DDPM, DPMpp, Heun
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.heun import HeunSampler
from jaxdiff.samplers.loop import Segment, advance, begin, sample, segments
from tests.closed_forms import ONE, edm_levels
from tests.guided import unguided

HEUN = HeunSampler(Heun())


def cut(sampler, weights, scales=None):
    scales = None if scales is None else np.float32(scales)
    return segments(sampler, np.float32(weights), scales)


def test_steps_are_cut_where_what_is_evaluated_changes():
    weights = [[1, 2, 3, 1, 1, 1], [1, 1, 5, 5, 1, 1]]
    assert cut(DdimSampler(DDIM()), weights, [0, 0, 0, 0, 9, 0]) == [
        Segment(0, 1, DdimSampler(DDIM()), (), False),
        Segment(1, 2, DdimSampler(DDIM()), (0,), False),
        Segment(2, 3, DdimSampler(DDIM()), (0, 1), False),
        Segment(3, 4, DdimSampler(DDIM()), (1,), False),
        Segment(4, 5, DdimSampler(DDIM()), (), True),
        Segment(5, 6, DdimSampler(DDIM()), (), False),
    ]


def test_one_segment_serves_all_weights_that_are_not_1():
    assert cut(DdpmSampler(DDPM()), [[0, 2, -3, 0.99]], [1, 2, 3, 4]) == [
        Segment(0, 4, DdpmSampler(DDPM()), (0,), True)
    ]


def test_the_last_step_of_heun_is_eulers():
    plain = np.ones((0, 4))
    assert cut(HEUN, plain) == [
        Segment(0, 3, HEUN, (), False),
        Segment(3, 4, HeunSampler(Heun(), corrected=False), (), False),
    ]
    assert [part.evaluations for part in cut(HEUN, plain)] == [6, 1]
    assert cut(HEUN, np.ones((0, 1))) == [
        Segment(0, 1, HeunSampler(Heun(), corrected=False), (), False)
    ]


@pytest.mark.parametrize("sampler", [DdpmSampler(DDPM()), HEUN], ids=["ddpm", "heun"])
def test_segments_are_all_steps_in_order(sampler):
    random = np.random.RandomState(0)
    for count in (1, 2, 17):
        parts = cut(sampler, random.randint(1, 3, (3, count)), random.randint(0, 2, count))
        ends = [0, *(part.stop for part in parts)]
        assert [part.start for part in parts] == ends[:-1]
        assert ends[-1] == count


@pytest.mark.parametrize(
    "sampler",
    [DdimSampler(DDIM(eta=0.5)), HeunSampler(Heun(churn=2.0)), DpmppSampler(DPMpp())],
    ids=lambda s: type(s).__name__,
)
def test_steps_may_be_taken_in_any_segments(sampler):
    """What the sampler carries and the guidance's state pass from segment to segment."""
    grid, keys = sampler.grid(edm_levels(6)), sample_keys(0, jnp.arange(4))
    x = 80 * jnp.linspace(-2, 2, 4)[:, None]
    values = begin(sampler, unguided(ONE), x)

    @jax.jit
    def go(values, start, stop):
        return advance(sampler, grid, unguided(ONE), values, keys, start, stop)

    whole = go(values, 0, 5)[0]
    for start, stop in [(0, 1), (1, 3), (3, 5)]:
        values = go(values, start, stop)
    np.testing.assert_array_equal(values[0], whole)
    assert go._cache_size() == 1
    ended = advance(sampler.last, grid, unguided(ONE), values, keys, 5, 6)[0]
    np.testing.assert_allclose(ended, sample(sampler, grid, unguided(ONE), x, keys), atol=1e-6)


def test_each_step_has_noise_of_its_own_from_the_samples_keys():
    drawn = []

    class Noted(DdimSampler):
        def step(self, denoise, grid, i, x, noise, carry, state):
            drawn.append(noise)
            return x, carry, state

    grid, keys = Noted(DDIM()).grid(edm_levels(3)), sample_keys(3, jnp.arange(2))
    values = begin(Noted(DDIM()), unguided(ONE), jnp.zeros((2, 4)))
    with jax.disable_jit():
        advance(Noted(DDIM()), grid, unguided(ONE), values, keys, 0, 3)
    expected = [normal(derived(keys, Purpose.STEP, i), (4,)) for i in range(3)]
    np.testing.assert_array_equal(drawn, expected)
    assert len(np.unique(drawn)) == 24
