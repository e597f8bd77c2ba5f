"""Points of the toy by every method: of the runs, and of denoisers that need no run."""

import dataclasses
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from jaxdiff import factory
from jaxdiff.config import Autoguidance, Schedule
from jaxdiff.diffusion.denoiser import Prediction
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.samplers.loop import advance, begin, sample, segments
from studies.toy import data
from studies.toy.kinds import ToyNetwork

BATCH = 8192


@dataclasses.dataclass(frozen=True)
class Runs:
    """One training of the toy's three networks.

    Attributes:
      model, guide, unconditional: references to runs of configs/toy.py, toy_guide.py and
        toy_unconditional.py.
      seed: of sampling.
    """

    model: str
    guide: str
    unconditional: str
    seed: int

    @cached_property
    def _loaded(self):
        """{reference: its trained model}."""
        return {}

    def load(self, reference):
        """The trained model of a reference, read once.

        Raises:
          UserError: for a run of anything else.
        """
        if reference not in self._loaded:
            model = jaxdiff.load(reference)
            if not isinstance(model.config.model, ToyNetwork):
                raise UserError(f"{reference} is no run of the toy: give one of configs/toy.py.")
            self._loaded[reference] = model
        return self._loaded[reference]

    def points(
        self, count, guide=None, cfg=None, early=None, interval=None, schedule=None, combiner=None
    ):
        """Points [count, 2] of the model, guided by any of three networks.

        Args:
          count: how many.
          guide, cfg: weights of the guide and of the unconditional network; None for none.
          early: (step, weight) of another guide, an earlier step of the model's own run.
          interval, schedule: of all weights.
          combiner: an APG, or None.
        """
        asked = [(self.guide, guide), (self.unconditional, cfg)]
        if early is not None:
            asked.append((f"{self.model.partition('@')[0]}@{early[0]}", early[1]))
        shape = {"interval": interval, "schedule": schedule or Schedule()}
        guidance = [Autoguidance(self.load(r), w, **shape) for r, w in asked if w is not None]
        arguments = {"guidance": guidance, "combiner": combiner, "batch_size": BATCH}
        return self.load(self.model).sample(count, seed=self.seed, **arguments).x

    def guide_points(self, count):
        """Points of the guide by itself."""
        return self.load(self.guide).sample(count, seed=self.seed, batch_size=BATCH).x

    def denoiser(self, reference):
        """The denoiser of a run: (x, level, condition, dropout) -> Prediction."""
        model = self.load(reference)
        return model.process.denoiser(partial(model.network.apply, model.params))

    def truncated(self, count, factor):
        """Points of the model with its score times `factor`, which is truncation."""
        denoiser = self.denoiser(self.model)

        def scaled(x, level, *condition):
            return Prediction(x + factor * (denoiser(x, level, *condition).x0 - x))

        return self._flow(scaled, count)

    def exact(self, count):
        """Points of the exact score, whose only error is the sampler's."""
        mixture = data.distribution("A")

        def denoiser(x, level, *condition):
            return Prediction(mixture.denoiser(x, level.ratio))

        return self._flow(denoiser, count)

    @cached_property
    def _path(self):
        """The sampler of the model's config, and its grid."""
        model = self.load(self.model)
        sampler = factory.sampler(model.config.sampling)
        levels, _ = model.process.path(model.config.sampling)
        return sampler, sampler.grid(levels)

    def _start(self, numbers):
        """(keys, x) of these samples before the first step."""
        keys = sample_keys(self.seed, numbers)
        noise = normal(derived(keys, Purpose.START, 0), (2,))
        _, grid = self._path
        return keys, self.load(self.model).process.start(keys, noise, grid.levels[0])

    def _flow(self, denoiser, count):
        """Points of another denoiser, by the model's process and sampler."""
        sampler, grid = self._path
        guidance = Guidance(main=NetworkBranch(denoiser))

        @jax.jit
        def run(numbers):
            keys, x = self._start(numbers)
            return sample(sampler, grid, guidance, x, keys)

        starts = range(0, count, BATCH)
        parts = [run(jnp.arange(start, start + BATCH)) for start in starts]
        return np.concatenate(parts)[:count]

    def trajectories(self, count, guide=1.0):
        """Points before each step and at the end, with autoguidance: [N + 1, count, 2].

        Args:
          count: how many points.
          guide: weight of the guide.
        """
        sampler, grid = self._path
        branches = [NetworkBranch(self.denoiser(each)) for each in (self.model, self.guide)]
        weights = np.full((1, grid.num_steps), guide, np.float32)
        params = GuidanceParams(jnp.asarray(weights))
        guidance = Guidance(main=branches[0], references=(branches[1],), params=params)
        keys, x = self._start(jnp.arange(count))
        values, path = begin(sampler, guidance, x), [np.asarray(x)]

        @partial(jax.jit, static_argnums=0)
        def step(sampler, values, i):
            return advance(sampler, grid, guidance, values, keys, i, i + 1)

        for part in segments(sampler, np.zeros_like(weights)):
            for i in range(part.start, part.stop):
                values = step(part.sampler, values, i)
                path.append(np.asarray(values[0]))
        return np.stack(path)
