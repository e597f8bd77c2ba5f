"""The job that samples a run: what was asked for, resolved; batches; files and their manifest."""

import dataclasses
import hashlib
import json
import os
import pathlib

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff import build
from jaxdiff.checkpoints.run import read_ema, resolve
from jaxdiff.data.images import to_uint8
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import make_mesh, replicated
from jaxdiff.results import replace
from jaxdiff.sampling import guide as guide_lib
from jaxdiff.sampling import pictures
from jaxdiff.sampling.generate import Generator
from jaxdiff.sampling.latents import start_from
from jaxdiff.version import __version__

NUM_SAMPLES = 64
MAX_TILES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What `sample.py` was asked for.

    Attributes:
      model: reference to the network, such as runs/digits or runs/digits@500.
      out: folder of the results.
      num_samples: None for 64, or for as many as there are latents.
      batch_size: how many at once over all devices.
      seed: of everything random; sample n of a seed is always the same.
      classes: such as "0,3,5-9"; sample n has the n-th of them, cyclically. None: all.
      sampler, steps, eta, clip: None for the run's own, config section `sampling`.
      classifier: reference to a noisy classifier that guides, or None.
      classifier_scale: how hard it guides; at 0 it is not evaluated.
      latents: file to start from instead of noise, with a label for each sample.
    """

    model: str
    out: str
    num_samples: int | None = None
    batch_size: int = 128
    seed: int = 0
    classes: str | None = None
    sampler: str | None = None
    steps: str | None = None
    eta: float | None = None
    clip: bool | None = None
    classifier: str | None = None
    classifier_scale: float = 1.0
    latents: str | None = None


def parse_classes(text, num_classes):
    """The classes that a text such as "0,3,5-9" names; all of the model's if it is None.

    Raises:
      UserError: for a text that cannot be read, or a class that the model does not have.
    """
    if text is None:
        return tuple(range(num_classes))
    if not num_classes:
        raise UserError(
            f"The model was trained without labels, so --classes {text} has no meaning."
        )
    classes = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdigit() and (high.isdigit() or not dash)):
            raise UserError(f"--classes {text} cannot be read: write numbers, as in 0,3,5-9.")
        classes += range(int(low), int(high or low) + 1)
    if not classes:
        raise UserError(f"--classes {text} names no class: write numbers, as in 0,3,5-9.")
    if max(classes) >= num_classes:
        raise UserError(
            f"The model has no class {max(classes)}: its classes are 0 to {num_classes - 1}."
        )
    return tuple(classes)


def sampling_config(config, request):
    """The run's section `sampling`, with what the request sets instead.

    An option that only another sampler reads is dropped when the sampler is changed.
    """
    sampling = config.sampling.copy_and_resolve_references()
    if request.sampler and request.sampler != sampling.sampler:
        sampling.eta = 0.0
    for name in ("sampler", "steps", "eta", "clip"):
        value = getattr(request, name)
        if value is not None:
            sampling[name] = value
    if not 0 <= sampling.eta <= 1:
        raise UserError(f"--eta is {sampling.eta}: it must lie between 0 and 1.")
    return sampling


def run(request):
    """Samples, and writes samples_{N}x{H}x{W}x{C}.npz, grid.png and manifest.json.

    Raises:
      UserError: for a reference, class, sampler, respacing, latents or folder that cannot be used.
    """
    request, latents = start_from(request)
    if request.num_samples is None:
        request = dataclasses.replace(request, num_samples=NUM_SAMPLES)
    if request.num_samples < 1 or request.batch_size < 1:
        raise UserError(
            f"--num_samples {request.num_samples} and --batch_size {request.batch_size} must be "
            "positive."
        )
    if not 0 <= request.seed < 2**31:
        raise UserError(f"--seed {request.seed} must lie between 0 and {2**31 - 1}.")
    reference = resolve(request.model)
    config = reference.run.config()
    if config.model.kind == "classifier":
        raise UserError(f"{reference} is a classifier: --model wants a diffusion model.")
    sampling = sampling_config(config, request)
    guide = guide_lib.find(request.classifier, request.classifier_scale, config)
    guides = guide is not None and guide.scale > 0
    network, process = build.network(config), build.process(config)
    shape, num_classes = build.sample_shape(config), guide_lib.num_classes(guide, config)
    mesh = make_mesh()
    generate = Generator(
        network=network,
        process=process,
        sampler=build.sampler(sampling),
        shape=shape,
        classes=(
            latents.classes(shape, num_classes)
            if latents
            else parse_classes(request.classes, num_classes)
        ),
        mesh=mesh,
        start=latents.array if latents else None,
        classifier=guide.network if guides else None,
    )
    grid = generate.sampler.grid(process.levels(sampling.steps))
    settings = {
        "jaxdiff": __version__,
        "model": str(reference),
        "config": config.to_dict(),
        "sampling": {**sampling.to_dict(), "num_steps": grid.num_steps},
        "num_samples": request.num_samples,
        "seed": request.seed,
        "classes": sorted(set(generate.classes)) if latents else list(generate.classes),
        "latents": latents.checksum() if latents else None,
        "classifier": str(guide.reference) if guide else None,
        "classifier_scale": guide.scale if guide else 0.0,
        "network_evaluations_per_sample": {
            "model": grid.num_steps,
            **({"classifier": grid.num_steps} if guides else {}),
        },
    }
    out = _claim(pathlib.Path(request.out), settings)
    shardings = jax.tree.map(lambda _: replicated(mesh), network.shapes)
    params = read_ema(reference, network.shapes, shardings)
    guide_params = guide.load(mesh) if guides else None
    if processes.is_first():
        print(f"Sampling {reference} with {sampling.sampler}, {grid.num_steps} steps.")
    images = to_uint8(_batches(generate, params, guide_params, grid, request))
    if processes.is_first():
        labels = generate.labels(np.arange(request.num_samples)) if generate.classes else None
        _write(out, settings, images, labels)
        print(f"Wrote {request.num_samples} samples, grid.png and manifest.json to {out}")


def _batches(generate, params, guide, grid, request):
    """All samples, in order, as float32 [N, ...]."""
    count = -(-request.num_samples // request.batch_size)
    size = -(-request.num_samples // count)  # even batches, so that little is padded
    done = []
    with tqdm(
        total=request.num_samples,
        unit="image",
        dynamic_ncols=True,
        disable=not processes.is_first(),
    ) as bar:
        for start in range(0, request.num_samples, size):
            numbers = np.arange(start, min(start + size, request.num_samples))
            done.append(generate(params, grid, request.seed, numbers, size, guide))
            bar.update(len(numbers))
    return np.concatenate(done)


def _claim(out, settings):
    """Makes the folder of the results, unless it holds those of another request."""
    manifest = out / "manifest.json"
    try:
        if manifest.exists():
            old = json.loads(manifest.read_text())
            if different := [
                k for k in settings if old.get(k) != json.loads(json.dumps(settings[k]))
            ]:
                raise UserError(
                    f"{out} holds samples of another request, with another "
                    f"{', '.join(different)}: choose another --out."
                )
        if processes.is_first():
            out.mkdir(parents=True, exist_ok=True)
            probe = out / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {out} cannot be written ({error.strerror}): choose another --out."
        ) from None
    processes.barrier("out")
    return out


def _write(out, settings, images, labels):
    """Writes each file under another name first, so that none is ever half there."""
    count, height, width, channels = images.shape
    arrays = (
        {"arr_0": images}
        if labels is None
        else {
            "arr_0": images,
            "arr_1": labels.astype(np.int64),
        }
    )
    samples = f"samples_{count}x{height}x{width}x{channels}.npz"
    replace(out / samples, lambda file: np.savez(file, **arrays))
    shown = min(count, MAX_TILES)
    captions = () if labels is None else [str(label) for label in labels[:shown]]
    columns = pictures.columns_for(shown, len(settings["classes"]))
    picture = pictures.grid(images[:shown], columns, captions)
    replace(out / "grid.png", lambda file: picture.save(file, "png"))
    sums = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in (samples, "grid.png")
    }
    text = json.dumps({**settings, "sha256": sums}, indent=2) + "\n"
    replace(out / "manifest.json", lambda file: file.write(text.encode()))
