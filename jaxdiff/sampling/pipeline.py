"""Samples by number: equation (1) and (2) put together of networks, and run in batches."""

import dataclasses
import enum
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.guidance.classifier import label_gradient
from jaxdiff.guidance.conditions import embedded, random, same
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.models.network import Network
from jaxdiff.parallel.batches import in_batches
from jaxdiff.parallel.mesh import batch_sharding
from jaxdiff.samplers.loop import advance, begin, segments
from jaxdiff.sampling.trained_model import applied


class ConditionKind(enum.Enum):
    """What a reference is told: the sample's label, that there is none, or a random one."""

    LABEL = "its label"
    NULL = "no label"
    RANDOM = "a random label"


@dataclasses.dataclass(frozen=True)
class GuidanceReference:
    """Who the main network is pushed away from.

    Attributes:
      told: what that network is told.
      guide: which of the guides it is; None: the main network itself.
    """

    told: ConditionKind
    guide: int | None = None

    def named(self, guides):
        """What it is in words; `guides` are the references to networks that guide."""
        network = "the model" if self.guide is None else guides[self.guide]
        return f"the reference {network} ({self.told.value})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
    """Parameters of all networks.

    Attributes:
      main: of the network that is sampled.
      guides: of each guide.
      classifier: of the classifier; None without one.
    """

    main: Any
    guides: tuple[Any, ...] = ()
    classifier: Any = None


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """How often networks are evaluated for one sample.

    Attributes:
      main: the main network, as a reference too.
      guides: each guide.
      classifier: forward and backward.
    """

    main: int
    guides: tuple[int, ...]
    classifier: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """Makes samples of one network with one sampler, guided or not.

    Attributes:
      network, process, sampler: what is sampled and how.
      shape: of one sample.
      classes: sample n has the label classes[n mod count]; empty for a network without labels.
      mesh: devices to spread a batch over.
      guides: (network, process) of each guide.
      references: who to be pushed away from, in the order of the strength's weights.
      classifier: a network that guides to the labels, of the same process; or None.
      together: predictions of one network for several conditions come from one batch.
      start: [N, ...] float32, unit noise that sample n starts from; None: noise of its own.
      low_res: [N, h, w, C] float32, what a network of super-resolution makes sample n of.
    """

    network: Network
    process: Any
    sampler: Any
    shape: tuple[int, ...]
    classes: tuple[int, ...]
    mesh: Mesh
    guides: tuple[tuple[Network, Any], ...] = ()
    references: tuple[GuidanceReference, ...] = ()
    classifier: Network | None = None
    together: bool = False
    start: np.ndarray | None = None
    low_res: np.ndarray | None = None

    def labels(self, numbers):
        """Labels [B] int32 of the samples with these numbers [B] int."""
        classes = np.asarray(self.classes or (0,), np.int32)
        return classes[numbers % len(classes)]

    def __call__(
        self, params, grid, seed, numbers, batch_size, strength=None, cads=None, quiet=True
    ):
        """Samples `numbers` as [len(numbers), ...] float32 NumPy, in batches of `batch_size`.

        Args:
          params: Params.
          grid: the sampler's.
          seed: in [0, 2^31).
          numbers: [n] int, which samples.
          batch_size: how many at once over all devices.
          strength: a GuidanceParams of NumPy arrays, where there are references or a classifier.
          cads: a Cads, or None.
          quiet: leave out the progress bar.
        """
        numbers = np.asarray(numbers, np.int32)
        strength = strength or GuidanceParams(np.ones((0, grid.num_steps), np.float32))
        parts = segments(self.sampler, strength.weights, strength.scales)

        def fetch(rows):
            n = numbers[rows]
            given = [array[n] for array in (self.start, self.low_res) if array is not None]
            return n, self.labels(n), *given

        def generate(*batch):
            values = self._begin(params, grid, strength, seed, *batch)
            for part in parts:
                which = (part.sampler, part.active, part.classifier_active)
                bounds = np.int32(part.start), np.int32(part.stop)
                values = self._advance(
                    *which, params, grid, strength, cads, seed, bounds, values, *batch
                )
            return values[0]

        return in_batches(
            generate, fetch, len(numbers), batch_size=batch_size, mesh=self.mesh, quiet=quiet
        )

    def evaluations(self, num_steps, strength=None):
        """Evaluations for one sample in N steps."""
        strength = strength or GuidanceParams(np.ones((0, num_steps), np.float32))
        main, guides, classifier = 0, [0] * len(self.guides), 0
        for part in segments(self.sampler, strength.weights, strength.scales):
            main += part.evaluations
            classifier += part.evaluations * part.classifier_active
            for reference in (self.references[r] for r in part.active):
                if reference.guide is None:
                    main += part.evaluations
                else:
                    guides[reference.guide] += part.evaluations
        return Evaluations(main, tuple(guides), classifier)

    @cached_property
    def _begin(self):
        def run(params, grid, strength, seed, numbers, labels, *given):
            keys = sample_keys(seed, numbers)
            if self.start is None:
                noise = normal(derived(keys, Purpose.START, 0), self.shape)
            else:
                noise = given[0]
            x = self.process.start(keys, noise, grid.levels[0])
            guidance = self.guidance(params, strength, None, labels, *given)
            return begin(self.sampler, guidance, x)

        return jax.jit(run, out_shardings=batch_sharding(self.mesh))

    @cached_property
    def _advance(self):
        def run(
            sampler,
            active,
            classifier_active,
            params,
            grid,
            strength,
            cads,
            seed,
            bounds,
            values,
            *batch,
        ):
            numbers, labels, *given = batch
            guidance = self.guidance(params, strength, cads, labels, *given)
            guidance = dataclasses.replace(
                guidance, active=active, classifier_active=classifier_active
            )
            keys = sample_keys(seed, numbers)
            return advance(sampler, grid, guidance, values, keys, *bounds)

        return jax.jit(run, static_argnums=(0, 1, 2), out_shardings=batch_sharding(self.mesh))

    def guidance(self, params, strength, cads, labels, *given):
        """The equation for a batch; traced."""
        low_res = None if self.low_res is None else given[-1]
        networks = [(self.network, self.process), *self.guides]
        every = [params.main, *params.guides]
        # One denoiser a network, so that the equation sees which predictions can share a batch.
        denoisers = [
            process.denoiser(applied(network, own, low_res))
            for (network, process), own in zip(networks, every, strict=True)
        ]

        def branch(index, told, number=None):
            network, _ = networks[index]
            embed, labelled = partial(network.embed, every[index]), _told(told, labels, network)
            drops = network.drop_rate > 0
            return NetworkBranch(denoisers[index], embedded(embed, labelled, cads, number, drops))

        gradient = None
        if self.classifier is not None:
            classify = self.process.classifier(partial(self.classifier.apply, params.classifier))
            gradient = label_gradient(classify, labels)
        return Guidance(
            main=branch(0, ConditionKind.LABEL),
            references=tuple(
                branch(0 if r.guide is None else 1 + r.guide, r.told, number)
                for number, r in enumerate(self.references)
            ),
            strength=strength,
            gradient=gradient,
            together=self.together,
        )


def _told(told, labels, network):
    """What a network is told, as conditions.embedded takes it."""
    if told is ConditionKind.NULL:
        return same(jnp.full_like(labels, network.spec.num_classes))
    if told is ConditionKind.RANDOM:
        return random(network.spec.num_classes)
    return same(labels)
