"""A trained diffusion model, as the jobs that read images use it."""

import dataclasses
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdiff import build
from jaxdiff.checkpoints.run import Reference, read_ema, resolve
from jaxdiff.diffusion.denoiser import Condition
from jaxdiff.errors import UserError
from jaxdiff.guidance.unguided import Unguided
from jaxdiff.models.network import Network
from jaxdiff.parallel.mesh import make_mesh, replicated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One network of one run, and its process.

    Attributes:
      reference: where the parameters are.
      config: the run's.
      network, process: as the config says.
      mesh: the devices.
    """

    reference: Reference
    config: Any
    network: Network
    process: Any
    mesh: Mesh

    def params(self):
        """The averaged parameters, whole on every device."""
        shardings = jax.tree.map(lambda _: replicated(self.mesh), self.network.shapes)
        return read_ema(self.reference, self.network.shapes, shardings)


def open_model(text, purpose):
    """The diffusion model that a reference such as runs/digits@500 names.

    Args:
      text: the reference.
      purpose: what the model is for, to end a sentence: "encodes images".

    Raises:
      UserError: if there is none, or it predicts no images from noisy ones alone.
    """
    reference = resolve(text)
    config = reference.run.config()
    if config.model.kind == "classifier":
        raise UserError(
            f"{text} is the run of a classifier, and only a diffusion model {purpose}: give the "
            "run of one."
        )
    if config.data.low_res_size:
        raise UserError(
            f"{text} enlarges images of {config.data.low_res_size} pixels, and only a model that "
            f"needs no smaller image {purpose}: give the run of one."
        )
    return Model(
        reference=reference,
        config=config,
        network=build.network(config),
        process=build.process(config),
        mesh=make_mesh(),
    )


def unguided(network, process, params, labels):
    """What a network predicts when told `labels` [B] int32; they say nothing to one without."""
    denoiser = process.denoiser(partial(network.apply, params))
    return Unguided(denoiser, Condition(network.embed(params, labels)))
