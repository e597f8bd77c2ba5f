"""The job that measures how well a model compresses a split of its dataset."""

import dataclasses

import numpy as np

from jaxdiff import results
from jaxdiff.checkpoints.run import digest
from jaxdiff.data.images import to_float
from jaxdiff.data.source import open_split
from jaxdiff.diffusion.likelihood import bits_per_dimension
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.files import local_path
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.memory import out_of_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import open_image_model, unguided
from jaxdiff.version import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What `python -m jaxdiff.evaluation.likelihood` was asked for.

    Attributes:
      model: reference to the network, such as runs/digits or runs/digits@500.
      split: of the run's dataset, such as "test".
      out: the npz file to write; None: likelihood_<split>_<step>.npz in the run's folder.
      steps: a respacing; "" for all of the process's.
      batch_size: how many images at once over all devices.
      seed: of the noise; that of image n is the same in every batch.
      num_images: the first so many of the split; None: all.
    """

    model: str
    split: str
    out: str | None = None
    steps: str = ""
    batch_size: int = 128
    seed: int = 0
    num_images: int | None = None


def measure(
    network, process, params, fetch, count, *, steps="", clip=True, seed=0, batch_size, mesh
):
    """Bits per dimension of images, each told its label.

    Args:
      network, process, params: the model.
      fetch: rows [B] int -> {"image": uint8 [B, H, W, C], "label": int32 [B]}.
      count: how many images there are.
      steps: a respacing of the process.
      clip: confine the predicted images to [-1, 1].
      seed: of the noise, which image n draws as sample n would draw its steps'.
      batch_size, mesh: how many at once, and on what.

    Returns:
      The dict of `bits_per_dimension`, of NumPy float32 [count] and [count, N].
    """
    levels = process.levels(steps)

    def run(params, seed, images, labels, numbers):
        guidance = unguided(network, process, params, labels)
        keys = sample_keys(seed, numbers)

        def denoise(x, level):
            return guidance.denoise(x, level, (), guidance.decide(0, keys))[0]

        def noise(i):
            return normal(derived(keys, Purpose.STEP, i), images.shape[1:])

        return bits_per_dimension(denoise, levels, to_float(images), noise, clip)

    def batch(rows):
        examples = fetch(rows)
        return examples["image"], examples["label"], rows.astype(np.int32)

    return in_batches(
        on_devices(run, (params, seed), mesh), batch, count, batch_size=batch_size, mesh=mesh
    )


def mean_and_error(values):
    """Mean of [N], and its standard error; NaN for one value."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return values.mean(), error


def run(request):
    """Measures a split, writes every term, and prints the mean.

    Raises:
      UserError: for a reference, split, steps or file that cannot be used; and for likelihoods
        that are not finite, after all has been written.
    """
    if request.batch_size < 1:
        raise UserError(f"--batch_size {request.batch_size} must be positive.")
    if not 0 <= request.seed < 2**31:
        raise UserError(f"--seed {request.seed} must lie between 0 and {2**31 - 1}.")
    model = open_image_model(request.model, "has a likelihood")
    config, process, reference = model.config, model.process, model.reference
    noisy = process.levels(request.steps)[:-1]
    source = open_split(config.data, request.split)
    count = len(source) if request.num_images is None else request.num_images
    if not 1 <= count <= len(source):
        raise UserError(
            f"--num_images {count} must lie between 1 and {len(source)}, the size of the split "
            f"{request.split}."
        )
    settings = {
        "jaxdiff": __version__,
        "model": str(reference),
        "digest": digest(reference),
        "data": config.data.name,
        "split": request.split,
        "num_images": count,
        "steps": request.steps,
        "num_steps": len(noisy.sigma),
        "clip": config.sampling.clip,
        "seed": request.seed,
    }
    name = f"likelihood_{request.split}_{reference.step}.npz"
    out = local_path(request.out, "--out") if request.out else reference.run.folder / name
    with results.claimed_file(out, settings):
        if processes.is_first():
            print(
                f"Measuring {reference} on {count} images, {len(noisy.sigma)} steps each; the "
                "first batch waits for the compiler.",
                flush=True,
            )
        mesh = make_mesh()
        with out_of_memory(f"choose a --batch_size smaller than {request.batch_size}"):
            bits = measure(
                model.network,
                process,
                model.params(mesh),
                source.fetch,
                count,
                steps=request.steps,
                clip=config.sampling.clip,
                seed=request.seed,
                batch_size=request.batch_size,
                mesh=mesh,
            )
        results.save(out, settings, {**bits, "noise_level": noisy.ratio})
    if len(bad := finite.non_finite(bits["total_bpd"])):
        raise UserError(
            f"{finite.about(finite.summary(bad), count, 'likelihoods')} in {out}: measure another "
            "step of the model."
        )
    if processes.is_first():
        mean, error = mean_and_error(bits["total_bpd"].astype(np.float64))
        print(f"{mean:.4f} bits per dimension, standard error {error:.4f}; wrote {out}")
