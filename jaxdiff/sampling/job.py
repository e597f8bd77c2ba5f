"""A sampling job: a request with all that it names found and checked."""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.memory import out_of_memory, size_text
from jaxdiff.parallel.batches import even_size
from jaxdiff.parallel.mesh import device_bytes
from jaxdiff.samplers.grid import Grid
from jaxdiff.sampling.guidance_config import Method
from jaxdiff.sampling.pipeline import Params, Pipeline
from jaxdiff.sampling.samples import Samples
from jaxdiff.sampling.settings import settings_of

BATCH, EACH = 128, 16  # samples at once by default: over all devices, and at least for each
ROOM = 0.75  # of a device's memory, for parameters


def default_batch_size(devices):
    """Samples at once on a number of devices."""
    return max(BATCH, EACH * devices)


def least_fsdp(shapes, devices, memory):
    """Over how many devices parameters are split: the fewest with which they fit.

    They fit where they take at most three quarters of a device; the rest is for the batch.

    Args:
      shapes: tree of jax.ShapeDtypeStruct, of all networks of a job.
      devices: number of devices of this process, of which the result is a divisor.
      memory: bytes of a device.

    Raises:
      UserError: if they do not fit even when they are split over all.
    """
    for fsdp in range(1, devices + 1):
        if devices % fsdp == 0 and (size := device_bytes(shapes, fsdp)) <= ROOM * memory:
            return fsdp
    raise UserError(
        f"The parameters of all networks take {size_text(device_bytes(shapes, 1))}, and "
        f"{size_text(size)} on each of {devices} devices that share them, of which one has "
        f"{size_text(memory)}: sample with more devices, or ones with more memory."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A request with all that it names found and checked.

    Attributes:
      model: the TrainedModel that is sampled.
      method: how it is guided.
      pipeline: that samples it.
      grid: the sampler's.
      num_samples: N.
      batch_size: how many at once over all devices.
      seed: of everything random.
      cond: {name: array [N, ...]}.
      class_names: of the labels.
      start: [N, ...] float32, unit noise to start from; None: each sample's own.
      request: {name: settings} of the sampler, guidance and so on, for the manifest.
    """

    model: Any
    method: Method
    pipeline: Pipeline
    grid: Grid
    num_samples: int
    batch_size: int
    seed: int
    cond: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    start: np.ndarray | None
    request: dict

    @cached_property
    def settings(self):
        """What decides the samples, as JSON values."""
        return settings_of(self)

    @property
    def evaluations(self):
        """{network: evaluations for one sample}, of the networks that are evaluated at all."""
        names, spent = ("model", *map(str, self.method.guides), "classifier"), {}
        counts = self.pipeline.evaluations(self.grid.num_steps, self.method.params)
        for name, count in zip(names, counts, strict=True):
            if count:
                spent[name] = spent.get(name, 0) + count
        return spent

    def sample(self, params, numbers, batch_size, with_x=False, bar=None):
        """What the pipeline returns of the samples with these numbers.

        Raises:
          UserError: if the memory does not suffice.
        """
        cond = {name: array[numbers] for name, array in self.cond.items()}
        start = None if self.start is None else self.start[numbers]
        with out_of_memory(f"choose a batch size smaller than {batch_size}"):
            return self.pipeline(
                params,
                self.grid,
                self.seed,
                numbers,
                batch_size,
                cond,
                self.method.params,
                self.method.cads,
                start,
                with_x=with_x,
                bar=bar,
            )

    def params(self, main=None):
        """The parameters of all networks that are evaluated; `main`: the model's, where given."""
        with out_of_memory("use devices with more"):
            return Params(
                self.model.params if main is None else main,
                tuple(guide.params for guide in self.method.guides),
                self.method.classifier.params if self.method.uses_classifier else None,
            )

    def samples(self):
        """All samples, in memory."""
        numbers, size = np.arange(self.num_samples), even_size(self.num_samples, self.batch_size)
        found = self.sample(self.params(), numbers, size, with_x=True)
        return Samples(
            images=found["images"],
            x=found["x"],
            cond=self.cond,
            class_names=self.class_names,
            non_finite=np.flatnonzero(~found["finite"]),
            source=self,
        )
