"""Samples by number: equations (1) and (2) built from networks, and run in batches."""

import dataclasses
import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.guidance.conditions import annealed, dropout, random, same
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.models.network import Network
from jaxdiff.parallel.batches import in_batches
from jaxdiff.parallel.mesh import batch_sharding
from jaxdiff.samplers.loop import advance, begin, segments


class ConditionKind(enum.Enum):
    """What a reference is conditioned on: the sample's condition, the null one, a random label."""

    CONDITION = "condition"
    NULL = "null"
    RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class GuidanceReference:
    """The weaker prediction D_i that guidance extrapolates away from.

    Attributes:
      condition: what it is conditioned on.
      guide: number of the guide that predicts it; None: the main network itself.
    """

    condition: ConditionKind
    guide: int | None = None

    @property
    def place(self):
        """Of its network: 0 is the main one, 1 the first guide."""
        return 0 if self.guide is None else 1 + self.guide


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Samples one network with one sampler, guided or not.

    Equal pipelines share their compiled programs, so all fields must be hashable.

    Attributes:
      network, process: what is sampled.
      sampler: such as jaxdiff.samplers.heun.HeunSampler.
      codec: whose `decode` makes images of samples.
      mesh: devices to spread a batch over.
      dropout: rate that the network is sampled with, in [0, 1).
      guides: (network, process, dropout) of each guide.
      references: in the order of the weights.
      classifier: a network that classifies noisy samples of the same process; or None.
      together: predictions of one network under several conditions come from one batch.
    """

    network: Network
    process: Any
    sampler: Any
    codec: Any
    mesh: Mesh
    dropout: float = 0.0
    guides: tuple[tuple[Network, Any, float], ...] = ()
    references: tuple[GuidanceReference, ...] = ()
    classifier: Network | None = None
    together: bool = False

    def __call__(
        self,
        params,
        grid,
        seed,
        numbers,
        batch_size,
        cond=None,
        guidance=None,
        cads=None,
        start=None,
        with_x=True,
        bar=None,
    ):
        """Samples `numbers`, in batches of `batch_size`; the last one is padded to it.

        Args:
          params: Params.
          grid: the sampler's, of N steps.
          seed: in [0, 2^31).
          numbers: [n] int, which samples.
          batch_size: how many at once over all devices.
          cond: {name: array [n, ...]}, the conditions of these samples; None: there are none.
          guidance: a GuidanceParams of NumPy arrays, where there are references or a classifier.
          cads: a Cads, or None.
          start: [n, ...] float32, unit noise to start from; None: each sample's own.
          with_x: whether x is returned beside images.
          bar: a progress bar to be updated; None: no progress is shown.

        Returns:
          {"images": uint8 [n, H, W, C] (what the codec decodes), "finite": bool [n], "x": float32
          [n, ...]}, NumPy arrays in every process. Images of samples that are not finite mean
          nothing.
        """
        numbers = np.asarray(numbers, np.int32)
        guidance = guidance or _unguided(grid.num_steps)
        parts = segments(self.sampler, guidance.weights, guidance.scales)

        def run(numbers, cond, start):
            batch = (params, seed, numbers, cond)
            values, conditions = _begin(self, *batch, grid.levels[0], guidance, start)
            for part in parts:
                which = (part.sampler, part.active, part.classifier_active)
                bounds = np.int32(part.start), np.int32(part.stop)
                values = _advance(
                    self, which, *batch, grid, guidance, cads, bounds, conditions, values
                )
            return _finish(self, values[0], with_x)

        def fetch(rows):
            given = jax.tree.map(lambda array: array[rows], (cond or {}, start))
            return numbers[rows], *given

        sizes = {"batch_size": batch_size, "even": False, "mesh": self.mesh}
        return in_batches(run, fetch, len(numbers), **sizes, bar=bar, quiet=True)

    @property
    def shapes(self):
        """The Params as jax.ShapeDtypeStruct."""
        return Params(
            self.network.shapes,
            tuple(network.shapes for network, _, _ in self.guides),
            self.classifier.shapes if self.classifier else None,
        )

    def evaluations(self, num_steps, guidance=None):
        """Evaluations for one sample in N steps: (main network, each guide, classifier).

        Those of the main network as a reference count too; the classifier's are forward and
        backward.
        """
        guidance = guidance or _unguided(num_steps)
        counts = [0] * (2 + len(self.guides))
        for part in segments(self.sampler, guidance.weights, guidance.scales):
            for place in (0, *(self.references[r].place for r in part.active)):
                counts[place] += part.evaluations
            counts[-1] += part.evaluations * part.classifier_active
        return tuple(counts)

    def conditions(self, params, cond):
        """Conditions of the main network and each reference; None where steps draw their own."""
        found = [self.network.embed(params.main, cond)]
        for reference in self.references:
            network, own = self._networks(params)[reference.place]
            embed = {
                ConditionKind.CONDITION: network.embed,
                ConditionKind.NULL: network.null,
                ConditionKind.RANDOM: lambda *_: None,
            }[reference.condition]
            found.append(embed(own, cond))
        return tuple(found)

    def guidance(self, params, cond, guidance, cads, conditions):
        """The equations for a batch, traced.

        Args:
          params, cond, guidance, cads: as in `__call__`.
          conditions: of the batch, from `conditions`.
        """
        networks = self._networks(params)
        processes = (self.process, *(process for _, process, _ in self.guides))
        rates = (self.dropout, *(rate for _, _, rate in self.guides))
        # One denoiser a network, so that the equation sees which predictions can share a batch.
        denoisers = [
            process.denoiser(partial(network.apply, own))
            for process, (network, own) in zip(processes, networks, strict=True)
        ]

        def branch(place, condition, number=None):
            if cads is not None:
                condition = annealed(condition, cads, number)
            masks = {"dropout": dropout(rates[place], number)} if rates[place] else {}
            return NetworkBranch(denoisers[place], condition, **masks)

        def reference(number, each, condition):
            network, own = networks[each.place]
            if each.condition is ConditionKind.RANDOM:
                embed = partial(network.embed, own)
                return branch(each.place, random(embed, cond, network.config.conditions), number)
            return branch(each.place, same(condition), number)

        gradient = None
        if self.classifier is not None:
            classify = self.process.classifier(partial(self.classifier.apply, params.classifier))
            gradient = label_gradient(classify, cond[self.classifier.config.label.name])
        main, *others = conditions
        pairs = zip(self.references, others, strict=True)
        return Guidance(
            main=branch(0, same(main)),
            references=tuple(reference(number, *pair) for number, pair in enumerate(pairs)),
            params=guidance,
            gradient=gradient,
            together=self.together,
        )

    def _networks(self, params):
        """(network, its parameters) of the main network and the guides."""
        networks = (self.network, *(network for network, _, _ in self.guides))
        return list(zip(networks, (params.main, *params.guides), strict=True))


def _unguided(num_steps):
    return GuidanceParams(np.ones((0, num_steps), np.float32))


def _split(mesh, tree):
    """A tree of arrays [B, ...] split over the devices by sample."""
    return jax.lax.with_sharding_constraint(tree, batch_sharding(mesh))


@partial(jax.jit, static_argnums=0)
def _begin(pipeline, params, seed, numbers, cond, level, guidance, start):
    """(values before the first step, the conditions)."""
    keys = sample_keys(seed, numbers)
    if start is None:
        start = normal(derived(keys, Purpose.START, 0), pipeline.network.signature.shape)
    conditions = pipeline.conditions(params, cond)
    x = pipeline.process.start(keys, start, level)
    equations = pipeline.guidance(params, cond, guidance, None, conditions)
    return _split(pipeline.mesh, (begin(pipeline.sampler, equations, x), conditions))


@partial(jax.jit, static_argnums=(0, 1))
def _advance(
    pipeline, which, params, seed, numbers, cond, grid, guidance, cads, bounds, conditions, values
):
    """The values after some steps; `which`: (sampler, active references, classifier active)."""
    sampler, active, classifier_active = which
    equations = dataclasses.replace(
        pipeline.guidance(params, cond, guidance, cads, conditions),
        active=active,
        classifier_active=classifier_active,
    )
    keys = sample_keys(seed, numbers)
    return _split(pipeline.mesh, advance(sampler, grid, equations, values, keys, *bounds))


@partial(jax.jit, static_argnums=(0, 2))
def _finish(pipeline, x, with_x):
    """What is returned of samples x."""
    found = {
        "images": pipeline.codec.decode(x),
        "finite": jnp.isfinite(x).reshape(len(x), -1).all(1),
    }
    return _split(pipeline.mesh, {**found, "x": x} if with_x else found)
