"""The job that encodes images as the noise that leads to them, and where sampling reads it."""

import dataclasses
import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np

from jaxdiff import factory, results
from jaxdiff.checkpoints.run import digest
from jaxdiff.data.images import to_float
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.errors import UserError
from jaxdiff.files import local_path
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.memory import out_of_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.samplers.encode import DdimEncode
from jaxdiff.samplers.loop import sample
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import open_image_model, unguided
from jaxdiff.version import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What `python -m jaxdiff.sampling.encode` was asked for.

    Attributes:
      model: reference to the network, such as runs/digits or runs/digits@500.
      images: an npz file, arr_0 uint8 images [N, H, W, C] and arr_1 labels [N]; or the folder of
        one that sample.py wrote.
      out: the npz file to write; .npz is appended if it is not there.
      steps: a respacing; None: the run's, config section `sampling`.
      batch_size: how many at once over all devices.
    """

    model: str
    images: str
    out: str
    steps: str | None = None
    batch_size: int = 128


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Images or latents in a file's order, and their labels.

    Attributes:
      path: of the file, for messages.
      array: [N, H, W, C].
      labels: int [N], or None.
    """

    path: pathlib.Path
    array: np.ndarray
    labels: np.ndarray | None

    def checksum(self):
        """Of all values."""
        digest = hashlib.sha256(np.ascontiguousarray(self.array))
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels))
        return digest.hexdigest()

    def classes(self, shape, num_classes):
        """The labels as a tuple, for a model of images of `shape`; empty if it has no classes.

        Raises:
          UserError: if the model has other images, or labels are missing or not its own.
        """
        if self.array.shape[1:] != shape:
            raise UserError(
                f"{self.path} holds arrays of shape {self.array.shape[1:]}, but the model's "
                f"images are {shape}: give a file of those."
            )
        if not num_classes:
            return ()
        if self.labels is None:
            raise UserError(
                f"{self.path} holds no labels, and the model needs them: add them as arr_1, one "
                f"number from 0 to {num_classes - 1} for each image."
            )
        if not (self.labels.min() >= 0 and self.labels.max() < num_classes):
            raise UserError(
                f"{self.path} holds labels from {self.labels.min()} to {self.labels.max()}, but "
                f"the model's classes are 0 to {num_classes - 1}: give a file of those."
            )
        return tuple(self.labels.tolist())


def read(path, flag, dtype, made_by):
    """Reads arr_0 [N, H, W, C] and, if it is there, arr_1 [N] of an npz file.

    Args:
      path: the file, or a folder with one file samples_*.npz.
      flag: where it was given, such as "--latents".
      dtype: what arr_0 must be.
      made_by: what writes such files, for messages.

    Raises:
      UserError: for a file that does not hold that, or holds what is not finite.
    """
    path = results.samples_file(local_path(path, flag))
    arrays = results.load(path)
    array, labels = arrays.get("arr_0"), arrays.get("arr_1")
    if array is None or array.dtype != dtype or array.ndim != 4 or not len(array):
        found = "no arr_0" if array is None else f"arr_0 {array.dtype} {array.shape}"
        raise UserError(
            f"{path} holds {found}, where arr_0 must be {np.dtype(dtype)} [N, H, W, C]: give a "
            f"file such as {made_by} writes."
        )
    if labels is not None and (labels.shape != (len(array),) or labels.dtype.kind not in "iu"):
        raise UserError(
            f"{path} holds arr_1 {labels.dtype} {labels.shape}, where it must be the "
            f"{len(array)} labels of arr_0 as whole numbers: mend the file."
        )
    finite.refuse_marked(arrays, path)
    if len(bad := finite.non_finite(array)):
        raise UserError(
            f"{path}: {finite.about(finite.summary(bad), len(array), 'arrays')}: give a file of "
            "numbers that all are."
        )
    return Numbered(path, array, labels)


def given_with(request):
    """A request of sample.py with what its file of latents or of small images decides.

    That is how many samples there are, and that latents go through DDIM if nothing else is said.

    Returns:
      The request, and the file; or the request itself and None, if it has no file.

    Raises:
      UserError: for a file of something else, or a request that contradicts it.
    """
    files = [name for name in ("latents", "low_res") if getattr(request, name) is not None]
    if not files:
        return request, None
    (flag, *others) = files
    others += [name for name in ("classes", "num_samples") if getattr(request, name) is not None]
    if others:
        raise UserError(
            f"--{others[0]} {getattr(request, others[0])} has no meaning with --{flag}, whose file "
            "has a label for each sample: leave one of the two out."
        )
    if flag == "low_res":
        given = read(request.low_res, "--low_res", np.uint8, "sample.py")
        return dataclasses.replace(request, num_samples=len(given.array)), given
    made_by = "python -m jaxdiff.sampling.encode"
    given = read(request.latents, "--latents", np.float32, made_by)
    settings = {"num_samples": len(given.array)}
    if request.sampler is None:
        settings |= {"sampler": "ddim", "eta": request.eta or 0.0}
    return dataclasses.replace(request, **settings), given


def encode(network, process, params, images, labels, *, steps, clip, batch_size, mesh):
    """Runs DDIM backwards from images to the noise that sampling would start from.

    Args:
      network, process, params: the model.
      images: uint8 [N, H, W, C].
      labels: int [N], ignored by a network without labels.
      steps: a respacing of the process.
      clip: confine predicted images to [-1, 1].
      batch_size, mesh: how many at once, and on what.

    Returns:
      float32 [N, H, W, C].
    """
    sampler = DdimEncode(clip=clip)
    grid = sampler.grid(process.levels(steps))
    labels = np.asarray(labels, np.int32)

    def run(params, grid, images, labels):
        guidance = unguided(network, process, params, labels)
        keys = sample_keys(0, jnp.arange(len(images)))  # what is drawn is multiplied by 0
        return sample(sampler, grid, guidance, to_float(images), keys)

    return in_batches(
        on_devices(run, (params, grid), mesh),
        lambda rows: (images[rows], labels[rows]),
        len(images),
        batch_size=batch_size,
        mesh=mesh,
    )


def run(request):
    """Encodes images; writes arr_0 float32 latents, arr_1 int64 labels, and the settings.

    Raises:
      UserError: for a reference, images, steps or file that cannot be used; and for latents that
        are not finite, after all has been written.
    """
    if request.batch_size < 1:
        raise UserError(f"--batch_size {request.batch_size} must be positive.")
    out = local_path(request.out, "--out")
    out = out if out.suffix == ".npz" else out.with_name(f"{out.name}.npz")
    model = open_image_model(request.model, "encodes images")
    config = model.config
    steps = config.sampling.steps if request.steps is None else request.steps
    num_steps = len(model.process.levels(steps).sigma) - 1
    images = read(request.images, "--images", np.uint8, "sample.py")
    labels = images.classes(factory.sample_shape(config), config.data.num_classes)
    settings = {
        "jaxdiff": __version__,
        "model": str(model.reference),
        "digest": digest(model.reference),
        "images": images.checksum(),
        "steps": steps,
        "num_steps": num_steps,
        "clip": config.sampling.clip,
    }
    with results.claimed_file(out, settings):
        if processes.is_first():
            print(
                f"Encoding {len(images.array)} images with {model.reference}, {num_steps} steps; "
                "the first batch waits for the compiler.",
                flush=True,
            )
        mesh = make_mesh()
        with out_of_memory(f"choose a --batch_size smaller than {request.batch_size}"):
            latents = encode(
                model.network,
                model.process,
                model.params(mesh),
                images.array,
                labels or np.zeros(len(images.array)),
                steps=steps,
                clip=config.sampling.clip,
                batch_size=request.batch_size,
                mesh=mesh,
            )
        arrays = {"arr_0": latents} | ({"arr_1": np.asarray(labels, np.int64)} if labels else {})
        results.save(out, settings, arrays)
    if processes.is_first():
        print(f"Wrote {len(latents)} latents to {out}")
    if len(bad := finite.non_finite(latents)):
        raise UserError(
            f"{finite.about(finite.summary(bad), len(latents), 'latents')} in {out}: encode with "
            "another step of the model."
        )
