"""Samples by number: the jitted call that makes a batch of them, and its padding to devices."""

import dataclasses
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdiff.diffusion.denoiser import Condition
from jaxdiff.diffusion.randomness import Purpose, normal, sample_keys
from jaxdiff.guidance.classifier import Classified
from jaxdiff.guidance.unguided import Unguided
from jaxdiff.models.network import Network
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import batch_sharding, from_global
from jaxdiff.samplers.grid import Grid
from jaxdiff.samplers.loop import sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """Makes samples of one network with one sampler.

    Attributes:
      network, process, sampler: what is sampled and how.
      shape: of one sample.
      classes: sample n has the label classes[n mod count]; empty for a network without labels.
      mesh: devices to spread a batch over.
      classifier: a network that guides to the labels, of the same process; None for no guidance.
      start: [N, ...] float32, what sample n starts from; None: noise of its own.
      low_res: [N, h, w, C] float32, what a network of super-resolution makes sample n of.
    """

    network: Network
    process: Any
    sampler: Any
    shape: tuple[int, ...]
    classes: tuple[int, ...]
    mesh: Mesh
    classifier: Network | None = None
    start: np.ndarray | None = None
    low_res: np.ndarray | None = None

    def labels(self, numbers):
        """Labels [B] int32 of the samples with these numbers [B] int."""
        classes = np.asarray(self.classes or (0,), np.int32)
        return classes[numbers % len(classes)]

    def __call__(self, params, grid: Grid, seed, numbers, batch_size, guide=None):
        """Samples `numbers`, at most `batch_size` of them, as [len(numbers), ...] float32 NumPy.

        `guide` is the classifier's (params, scale), if there is one. The batch is padded to
        `batch_size`, rounded up to what the devices divide, so that every call of a job runs the
        same program.
        """
        size = -(-batch_size // self.mesh.size) * self.mesh.size
        padded = np.resize(np.asarray(numbers, np.int32), size)
        sharding = batch_sharding(self.mesh)
        x = self._jitted(
            params,
            grid,
            seed,
            from_global(padded, sharding),
            from_global(self.labels(padded), sharding),
            guide,
            self._given(self.start, padded),
            self._given(self.low_res, padded),
        )
        return processes.gather(x)[: len(numbers)]

    def _given(self, array, numbers):
        if array is None:
            return None
        return from_global(array[numbers], batch_sharding(self.mesh))

    @cached_property
    def _jitted(self):
        return jax.jit(self._run, out_shardings=batch_sharding(self.mesh))

    def _run(self, params, grid, seed, numbers, labels, guide, start, low_res):
        inputs = {} if low_res is None else {"low_res": low_res}
        denoiser = self.process.denoiser(partial(self.network.apply, params, **inputs))
        guidance = Unguided(denoiser, Condition(self.network.embed(params, labels)))
        if self.classifier is not None:
            classifier_params, scale = guide
            classify = self.process.classifier(partial(self.classifier.apply, classifier_params))
            guidance = Classified(guidance, classify, labels, scale)
        keys = sample_keys(seed, numbers)
        noise = normal(keys, Purpose.START, 0, self.shape) if start is None else start
        x = self.process.start(keys, noise, grid.levels[0])
        return sample(self.sampler, grid, guidance, x, keys)
