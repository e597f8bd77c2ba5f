"""The loop that every sampler runs in, in segments of steps that evaluate the same networks.

A reference of weight 1, or a classifier of scale 0, is not evaluated: where that changes, the loop
is split. Weights are compared on the host; the steps of a segment are one `fori_loop` with traced
bounds, so one program serves every segment that evaluates the same.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxdiff.diffusion.randomness import Purpose, derived, normal


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps start .. stop - 1.

    Attributes:
      start, stop: numbers of steps.
      sampler: that takes them; the last step of a second-order sampler has its own.
      active: indices of the references that are evaluated.
      classifier_active: whether the classifier is.
    """

    start: int
    stop: int
    sampler: Any
    active: tuple[int, ...]
    classifier_active: bool

    @property
    def evaluations(self):
        """How often each of its networks is evaluated."""
        return (self.stop - self.start) * self.sampler.evaluations


def segments(sampler, weights, scales=None):
    """Cuts the steps where what is evaluated changes.

    Args:
      sampler: such as HeunSampler.
      weights: [references, N] NumPy float32, 1 where a reference is off.
      scales: [N], 0 where the classifier is off; None without one.

    Returns:
      A list of Segment, which together are all N steps.
    """
    references, num_steps = weights.shape
    scales = np.zeros(num_steps) if scales is None else scales
    found = []
    for i in range(num_steps):
        stepper = sampler.last if i == num_steps - 1 else sampler
        active = tuple(r for r in range(references) if weights[r, i] != 1)
        step = Segment(i, i + 1, stepper, active, bool(scales[i] != 0))
        if found and dataclasses.replace(step, start=found[-1].start) == dataclasses.replace(
            found[-1], stop=i + 1
        ):
            found[-1] = dataclasses.replace(found[-1], stop=i + 1)
        else:
            found.append(step)
    return found


def begin(sampler, guidance, x):
    """The values before the first step: (x, the sampler's carry, the guidance's state)."""
    return x, sampler.init(x), guidance.init(x.shape)


def advance(sampler, grid, guidance, values, keys, start, stop):
    """Takes steps start .. stop - 1, which may be traced.

    Args:
      sampler: with `step`, such as DdpmSampler.
      grid: the sampler's, of N steps.
      guidance: a Guidance.
      values: from `begin`, or from the steps before.
      keys: [B], each sample's.
      start, stop: integers.

    Returns:
      The next values.
    """

    def step(i, values):
        x, carry, state = values
        decisions = guidance.decide(i, keys)

        def denoise(x, level, state):
            return guidance.denoise(x, level, state, decisions)

        noise = normal(derived(keys, Purpose.STEP, i), x.shape[1:])
        return sampler.step(denoise, grid, i, x, noise, carry, state)

    return jax.lax.fori_loop(start, stop, step, values)


def sample(sampler, grid, guidance, x, keys):
    """All steps in one function to be traced, each evaluating all that the guidance holds.

    Args:
      sampler, grid, guidance, keys: as in `advance`.
      x: [B, ...] at the grid's first level.

    Returns:
      x at the grid's last level.
    """
    values = begin(sampler, guidance, x)
    everything = range(len(guidance.references))
    for part in segments(sampler, np.zeros((len(everything), grid.num_steps))):
        values = advance(part.sampler, grid, guidance, values, keys, part.start, part.stop)
    return values[0]
