"""Bits per dimension of a split of a model's dataset: the variational bound, image by image."""

from functools import partial

import numpy as np

from jaxdiff import claims, factory, files
from jaxdiff.checkpoints.run import digest
from jaxdiff.config import PixelCodec, to_dict
from jaxdiff.data.source import open_split
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.diffusion.variational_bound import bits_per_dimension
from jaxdiff.errors import UserError
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import finite
from jaxdiff.sampling.latents import levels_of, open_adm
from jaxdiff.version import __version__


def measure(network, process, params, source, count, *, levels, clip=True, seed=0, **batches):
    """Bits per dimension of the first images of a source, each under its own conditions.

    Args:
      network, process, params: the model.
      source: a Source of images.
      count: how many of them.
      levels: Level [N + 1] of the process, from noise to images.
      clip: confine the predicted images to [-1, 1].
      seed: of the noise, which image n draws as sample n would draw its steps'.
      **batches: batch_size and mesh, as of `in_batches`.

    Returns:
      The dict of `bits_per_dimension`, of NumPy float32 [count] and [count, N].
    """
    codec = factory.codec(network.config.codec)

    def run(params, seed, numbers, images, cond):
        keys, condition = sample_keys(seed, numbers), network.embed(params, cond)
        denoiser, x0 = process.denoiser(partial(network.apply, params)), codec.encode(images)

        def noise(i):
            return normal(derived(keys, Purpose.STEP, i), x0.shape[1:])

        return bits_per_dimension(lambda x, s: denoiser(x, s, condition), levels, x0, noise, clip)

    def fetch(rows):
        examples = source.fetch(rows)
        return rows.astype(np.int32), examples["x"], examples["cond"]

    return in_batches(on_devices(run, (params, seed), batches["mesh"]), fetch, count, **batches)


def mean_and_error(values):
    """Mean of [N], and its standard error; NaN for one value."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return values.mean(), error


def run(model, split, *, out=None, steps=None, batch_size=128, seed=0, num_images=None):
    """Measures a split, writes every term, and prints the mean.

    Args:
      model: reference to the network, such as runs/a@500.
      split: of the run's dataset, such as "test".
      out: the npz file; None: likelihood_<split>_<step>.npz in the run's folder.
      steps: of an ancestral sampler, or a respacing; None: all of the process's.
      batch_size: how many images at once over all devices.
      seed: of the noise; that of image n is the same in every batch.
      num_images: the first so many of the split; None: all.

    Raises:
      UserError: for a reference, split, steps or file that cannot be used; and for likelihoods
        that are not finite, after all has been written.
    """
    model = open_adm(model, "has a likelihood")
    config, reference = model.config, model.reference
    if not isinstance(config.model.codec, PixelCodec):
        raise UserError(
            f"{model} has another codec than pixels: give a run whose model is of pixels."
        )
    steps = config.diffusion.num_timesteps if steps is None else steps
    levels = levels_of(model.process, steps)
    source = open_split(config.data, split, config.model.conditions)
    count = len(source) if num_images is None else num_images
    if count > len(source):
        raise UserError(
            f"--num_images is {count}: it must be at most {len(source)}, the size of the split "
            f"{split}."
        )
    clip = config.sampling.clip
    settings = {
        "jaxdiff": __version__,
        "model": str(reference),
        "digest": digest(reference),
        "data": to_dict(config.data),
        "split": split,
        "num_images": count,
        "steps": steps,
        "clip": clip,
        "seed": seed,
    }
    name = f"likelihood_{split}_{reference.step}.npz"
    out = files.parse_path(out, "--out") if out else reference.run.folder / name
    with claims.claimed_file(out, settings):
        if processes.is_first():
            print(
                f"Measuring {reference} on {count} images, {len(levels.sigma) - 1} steps each; "
                "compiling the first batch takes a while.",
                flush=True,
            )
        with out_of_memory(f"choose a --batch_size smaller than {batch_size}"):
            bits = measure(
                model.network,
                model.process,
                model.params,
                source,
                count,
                levels=levels,
                clip=clip,
                seed=seed,
                batch_size=batch_size,
                mesh=make_mesh(),
            )
        claims.save(out, settings, {**bits, "noise_level": levels[:-1].ratio})
    if len(wrong := finite.non_finite(bits["total_bpd"])):
        raise UserError(
            f"{finite.about(finite.summary(wrong), count, 'likelihoods')} in {out}: measure "
            "another step of the model."
        )
    if processes.is_first():
        mean, error = mean_and_error(bits["total_bpd"].astype(np.float64))
        print(f"{mean:.4f} bits per dimension, standard error {error:.4f}; wrote {out}")
