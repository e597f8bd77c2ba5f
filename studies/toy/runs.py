"""Points of the toy by every method: the runs' own, by the sampling job; and what needs no run."""

import dataclasses
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import factory
from jaxdiff.data import toy
from jaxdiff.diffusion.denoiser import Condition, Prediction
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.guidance.equation import Guidance, NetworkBranch
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.samplers.loop import advance, begin, sample, segments
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.options import Request
from jaxdiff.sampling.trained_model import applied, open_model

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

    def __post_init__(self):
        """Raises UserError for a run of anything else."""
        for name in (self.model, self.guide, self.unconditional):
            if open_model(name, "models").config.model.kind != "toy":
                raise UserError(f"{name} is no run of the toy: give one of configs/toy.py.")

    def method(self, guide=None, cfg=None, early=None, **fields):
        """The job of the model pushed away from the guide, the unconditional network, or both.

        Args:
          guide, cfg: their weights; None for none.
          early: (step, weight) of another guide, an earlier step of the model's own run.
          fields: of a Request.
        """
        asked = [(self.guide, guide), (self.unconditional, cfg)]
        if early is not None:
            asked.append((f"{self.model.partition('@')[0]}@{early[0]}", early[1]))
        names = tuple(name for name, w in asked if w is not None)
        weights = tuple(float(w) for _, w in asked if w is not None)
        request = Request(
            model=self.model, out="", guide=names, weight=weights, batch_size=BATCH, **fields
        )
        return run_sampling.prepare(request)

    @cached_property
    def _begun(self):
        """{networks and sampler: (the Generator that has compiled them, their parameters)}."""
        return {}

    def points(self, count, **fields):
        """Points [count, 2] of the `method` with these arguments."""
        prepared = self.method(**fields)
        key = prepared.request.guide, prepared.generate.sampler
        if key not in self._begun:
            self._begun[key] = prepared.generate, prepared.params()
        generate, params = self._begun[key]
        prepared = dataclasses.replace(prepared, generate=generate)
        return prepared.samples(params, self.seed, np.arange(count), quiet=True)

    def guide_points(self, count):
        """Points of the guide by itself."""
        return dataclasses.replace(self, model=self.guide).points(count)

    def truncated(self, count, factor):
        """Points of the model with its score times `factor`: what truncation does."""
        model = open_model(self.model, "models")
        params = model.params(make_mesh())
        denoiser = model.process.denoiser(applied(model.network, params))

        def scaled(x, level, condition):
            return Prediction(x + factor * (denoiser(x, level, condition).x0 - x))

        return self._flow(model, scaled, count)

    def exact(self, count):
        """Points of the exact score: what remains is the sampler's own error."""
        mixture = toy.distribution("A")

        def denoiser(x, level, condition):
            return Prediction(mixture.denoiser(x, level.ratio))

        return self._flow(open_model(self.model, "models"), denoiser, count)

    def _flow(self, model, denoiser, count):
        """Points of another denoiser, from the model's process and sampler."""
        sampler = factory.sampler(model.config.sampling)
        grid = sampler.grid(factory.path(model.config, model.config.sampling)[0])
        guidance = Guidance(main=NetworkBranch(denoiser, lambda i, keys: Condition()))

        @jax.jit
        def run(numbers):
            keys = sample_keys(self.seed, numbers)
            noise = normal(derived(keys, Purpose.START, 0), (2,))
            x = model.process.start(keys, noise, grid.levels[0])
            return sample(sampler, grid, guidance, x, keys)

        starts = range(0, count, BATCH)
        parts = [run(jnp.arange(start, start + BATCH)) for start in starts]
        return np.concatenate(parts)[:count]

    def trajectories(self, count, **fields):
        """Where points are before each step of the `method` and at the end: [N + 1, count, 2]."""
        prepared = self.method(**fields)
        generate, grid = prepared.generate, prepared.grid
        strength = jax.tree.map(jnp.asarray, prepared.method.strength)
        guidance = generate.guidance(prepared.params(), strength, None, jnp.zeros(count, jnp.int32))
        keys = sample_keys(self.seed, jnp.arange(count))
        noise = normal(derived(keys, Purpose.START, 0), (2,))
        x = generate.process.start(keys, noise, grid.levels[0])
        values = begin(generate.sampler, guidance, x)

        @partial(jax.jit, static_argnums=0)
        def step(sampler, values, i):
            return advance(sampler, grid, guidance, values, keys, i, i + 1)

        path = [np.asarray(x)]
        for part in segments(generate.sampler, np.zeros(strength.weights.shape)):
            for i in range(part.start, part.stop):
                values = step(part.sampler, values, i)
                path.append(np.asarray(values[0]))
        return np.stack(path)
