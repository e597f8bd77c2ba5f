"""A trained network, as the jobs that sample and measure use it."""

import dataclasses
from functools import partial
from typing import Any

import jax

from jaxdiff import build
from jaxdiff.checkpoints.run import Reference, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.guidance.conditions import embedded, same
from jaxdiff.guidance.equation import Branch, Guidance
from jaxdiff.models.network import Network
from jaxdiff.parallel.mesh import replicated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """One network of one run, and its process.

    Attributes:
      reference: where the parameters are.
      config: the run's.
      network, process: as the config says.
    """

    reference: Reference
    config: Any
    network: Network
    process: Any

    def __str__(self):
        return str(self.reference)

    def params(self, mesh):
        """The averaged parameters, whole on every device."""
        shardings = jax.tree.map(lambda _: replicated(mesh), self.network.shapes)
        return read_ema(self.reference, self.network.shapes, shardings)


def open_model(text, flag, kind="a diffusion model"):
    """The network that a reference such as runs/digits@500 names.

    Args:
      text: the reference.
      flag: where it was given, for messages.
      kind: what it must be: "a diffusion model" or "a classifier".

    Raises:
      UserError: if there is none, or it is of the other kind.
    """
    reference = resolve(text)
    config = reference.run.config()
    found = "a classifier" if config.model.kind == "classifier" else "a diffusion model"
    if found != kind:
        raise UserError(f"{reference} is {found}: --{flag} wants {kind}.")
    return Model(
        reference=reference,
        config=config,
        network=build.network(config),
        process=build.process(config),
    )


def open_image_model(text, purpose):
    """The diffusion model that a reference names, which must need nothing but noisy images.

    Args:
      text: the reference.
      purpose: what the model is for, to end a sentence: "encodes images".

    Raises:
      UserError: if there is none, or it enlarges images, or makes none.
    """
    model = open_model(text, "model")
    if model.config.data.low_res_size:
        raise UserError(
            f"{text} enlarges images of {model.config.data.low_res_size} pixels, and only a model "
            f"that needs no smaller image {purpose}: give the run of one."
        )
    if model.config.diffusion.process != "adm":
        raise UserError(
            f"{text} has the process {model.config.diffusion.process}, and only a model of the "
            f"process adm {purpose}: give the run of one."
        )
    return model


def unguided(network, process, params, labels):
    """What a network predicts when told `labels` [B] int32; they say nothing to one without."""
    return Guidance(
        main=Branch(
            process.denoiser(partial(network.apply, params)),
            embedded(partial(network.embed, params), same(labels)),
        )
    )
