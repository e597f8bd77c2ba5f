"""Images as the noise that leads to them: the job that encodes, and the file that it writes."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxdiff import claims, factory, files
from jaxdiff.arrays import checksum
from jaxdiff.checkpoints.run import digest
from jaxdiff.config import ADM, DDIM
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.errors import UserError, user_errors
from jaxdiff.guidance.equation import Guidance, NetworkBranch
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.samplers.ddim_encode import DdimEncoder
from jaxdiff.samplers.loop import sample
from jaxdiff.sampling import finite
from jaxdiff.sampling.samples import load_samples, stored
from jaxdiff.sampling.trained_model import condition_array, load
from jaxdiff.version import __version__


def open_adm(text, purpose):
    """The TrainedModel that a reference names, a diffusion model of ADM's process.

    Args:
      text: the reference.
      purpose: what the model is for, to end a sentence: "encodes images".

    Raises:
      UserError: if there is none, or it is another.
    """
    model = load(text)
    if model.config.is_classifier or not isinstance(model.config.diffusion, ADM) or model.dropout:
        raise UserError(
            f"Only a diffusion model of the process adm without dropout {purpose}, and {model} is "
            "another: give the run of one."
        )
    return model


def levels_of(process, steps):
    """Level [N + 1] of a number of steps, or a respacing; UserError if the process has none."""
    with user_errors():
        return process.path(DDIM(steps=steps))[0]


def encode(network, process, params, images, cond, *, levels, clip, batch_size, mesh):
    """Runs DDIM backwards from images to the noise that sampling would start from.

    Args:
      network, process, params: the model.
      images: uint8 [N, H, W, C].
      cond: {name: array [N, ...]} of the network's conditions.
      levels: Level [N + 1] of the process, from noise to images.
      clip: confine predicted images to [-1, 1].
      batch_size, mesh: how many at once, and on what.

    Returns:
      float32 [N, H, W, C].
    """
    encoder, codec = DdimEncoder(DDIM(clip=clip)), factory.codec(network.config.codec)

    def run(params, grid, images, cond):
        condition = network.embed(params, cond)
        denoiser = process.denoiser(partial(network.apply, params))
        guidance = Guidance(main=NetworkBranch(denoiser, lambda i, keys: condition))
        keys = sample_keys(0, jnp.arange(len(images)))  # what is drawn is multiplied by 0
        return sample(encoder, grid, guidance, codec.encode(images), keys)

    return in_batches(
        on_devices(run, (params, encoder.grid(levels)), mesh),
        lambda rows: (images[rows], {name: array[rows] for name, array in cond.items()}),
        len(images),
        batch_size=batch_size,
        mesh=mesh,
    )


def run(model, images, out, *, steps=None, batch_size=128):
    """Encodes images; writes arr_0 float32 latents, their conditions, and the settings.

    Args:
      model: reference to the network, such as runs/a@500.
      images: an npz file, arr_0 uint8 images [N, H, W, C], arr_1 labels [N] and other conditions
        by name; or the folder of one that sample.py wrote.
      out: the npz file to write; .npz is appended if it is not there.
      steps: of DDIM, or a respacing; None: the run's, config section `sampling`.
      batch_size: how many at once over all devices.

    Raises:
      UserError: for a reference, images, steps or file that cannot be used; and for latents that
        are not finite, after all has been written.
    """
    out = files.parse_path(out, "--out")
    out = out if out.suffix == ".npz" else out.with_name(f"{out.name}.npz")
    model = open_adm(model, "encodes images")
    config = model.config
    steps = config.sampling.steps if steps is None else steps
    levels = levels_of(model.process, steps)
    array, cond = _read(images, model)
    settings = {
        "jaxdiff": __version__,
        "model": str(model),
        "digest": digest(model.reference),
        "images": {name: checksum(each) for name, each in {"arr_0": array, **cond}.items()},
        "steps": steps,
        "clip": config.sampling.clip,
    }
    with claims.claimed_file(out, settings):
        if processes.is_first():
            print(
                f"Encoding {len(array)} images with {model}, {len(levels.sigma) - 1} steps; "
                "compiling the first batch takes a while.",
                flush=True,
            )
        with out_of_memory(f"choose a --batch_size smaller than {batch_size}"):
            latents = encode(
                model.network,
                model.process,
                model.params,
                array,
                cond,
                levels=levels,
                clip=config.sampling.clip,
                batch_size=batch_size,
                mesh=make_mesh(),
            )
        claims.save(out, settings, {"arr_0": latents, **stored(cond)})
    if processes.is_first():
        print(f"Wrote {len(latents)} latents to {out}")
    if len(wrong := finite.non_finite(latents)):
        raise UserError(
            f"{finite.about(finite.summary(wrong), len(latents), 'latents')} in {out}: encode with "
            "another step of the model."
        )


def _read(path, model):
    """(uint8 images [N, H, W, C], {name: array [N, ...]} of the model's conditions) of a file.

    Raises:
      UserError: for a file that does not hold that, or samples that are not finite.
    """
    config = model.config
    found, shape = load_samples(path, config.label and config.label.name), config.data.shape
    images = found.images
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f"--images {path} holds arr_0 {images.dtype} {images.shape}: it must be uint8 "
            f"[N, {', '.join(map(str, shape))}]."
        )
    if len(found.non_finite):
        about = finite.about(finite.summary(found.non_finite), len(images))
        raise UserError(f"--images {path}: {about}: give samples that all are.")
    cond = {}
    for each in config.model.conditions:
        value = found.cond.get(each.name)
        if value is None or value.shape[:1] != (len(images),):
            shape = "" if value is None else f" {value.shape}"
            raise UserError(
                f"--images {path} holds no {each.name} of each of the {len(images)} images{shape}, "
                "which the model needs: add it, the first label as arr_1, others by name."
            )
        cond[each.name] = condition_array(each, value, len(images), config.data)
    return images, cond
