"""A trained network, as the jobs that sample and measure use it."""

import dataclasses
import os
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import factory
from jaxdiff.checkpoints.run import Reference, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.guidance.conditions import embedded, same
from jaxdiff.guidance.equation import Guidance, NetworkBranch
from jaxdiff.models.network import Network
from jaxdiff.parallel.mesh import replicated

TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


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
    if pathlib.Path(text).suffix in TENSOR_FILES and not os.path.isdir(text):
        raise UserError(
            f"--{flag} {text} is a file of tensors, and a run is wanted: make one of it with "
            f"`python -m jaxdiff.interop.openai import {text} --out runs/NAME`, "
            "see docs/openai.md."
        )
    reference = resolve(text)
    config = reference.run.config()
    found = "a classifier" if config.model.kind == "classifier" else "a diffusion model"
    if found != kind:
        raise UserError(f"{reference} is {found}: --{flag} wants {kind}.")
    if reference.dropout and config.model.kind != "unet":
        raise UserError(
            f"{reference} is a network of the kind {config.model.kind}, and only one of images is "
            "run with dropout: leave dropout out."
        )
    return Model(
        reference=reference,
        config=config,
        network=dataclasses.replace(factory.network(config), drop_rate=reference.dropout),
        process=factory.process(config),
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
    if model.reference.dropout:
        raise UserError(
            f"{text} is run with dropout, and only a network without {purpose}: leave dropout out."
        )
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


def applied(network, params, low_res=None):
    """The network with its parameters, as a process takes it: (x, time, condition) -> output.

    Args:
      network: a Network.
      params: its parameters.
      low_res: [N, h, w, C] float32, the small images that it enlarges; x may be a whole number of
        times as many, the repetitions of a sample side by side.
    """

    def apply(x, time, condition):
        given = {}
        if low_res is not None:
            given["low_res"] = jnp.repeat(low_res, x.shape[0] // low_res.shape[0], axis=0)
        if network.drop_rate:
            given |= {"drop_rate": network.drop_rate, "drop_keys": condition.drop_keys}
        return network.apply(params, x, time, condition.embedding, **given)

    return apply


def unguided(network, process, params, labels):
    """What a network predicts when told `labels` [B] int32; they say nothing to one without."""
    return Guidance(
        main=NetworkBranch(
            process.denoiser(applied(network, params)),
            embedded(partial(network.embed, params), same(labels)),
        )
    )
