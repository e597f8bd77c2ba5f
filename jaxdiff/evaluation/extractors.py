"""Features of images: a front end, a network and its weights, run over all devices."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import files
from jaxdiff.checkpoints.run import digest
from jaxdiff.config.fields import nearest
from jaxdiff.errors import UserError
from jaxdiff.evaluation import front_ends, weights
from jaxdiff.evaluation.networks import dinov2, efficientnet, inception, sscd
from jaxdiff.evaluation.networks.units import Network
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel.batches import on_devices, stream
from jaxdiff.parallel.mesh import batch_sharding, make_mesh, replicated
from jaxdiff.sampling.trained_model import load

SHORT = {"inception": "inception-2015"}


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What turns images into vectors.

    Attributes:
      name: of the network, such as "inception-2015", or the reference of a classifier's run.
      front_end: name of the resize and range; "" for a run.
      digest: SHA-256 in hexadecimal of the file of weights, or digest of the run's parameters.
      outputs: {name: numbers for an image}: "features", and of Inception "spatial" and "logits".
      shape: (H, W, C) that images must have, or None for any.
      run: (fetch, count, quiet=False, bar=None) -> iterator over {output: [B, D] float32} of
        consecutive batches, in order, the same in every process; fetch(rows [B] int) -> uint8
        images [B, H, W, C], all of one size. It raises UserError for features that are not finite,
        with the number of the first such image.
      public: whether the weights are those that the name stands for everywhere.
    """

    name: str
    front_end: str
    digest: str
    outputs: dict[str, int]
    shape: tuple[int, int, int] | None
    run: Callable
    public: bool = True

    def __str__(self):
        """Such as "inception-2015, tf1-bilinear"; other weights than the public ones are named."""
        name = self.name if self.public else f"{self.name} of weights {self.digest[:8]}"
        return f"{name}, {self.front_end}" if self.front_end else name

    @property
    def key(self):
        """Name for files: "inception-2015.tf1-bilinear.6726825d"."""
        parts = (self.name.strip("./"), self.front_end, self.digest[:8])
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", ".".join(filter(None, parts)))

    def __call__(self, images):
        """{output: [N, D] float32} of uint8 images [N, H, W, C]."""
        self.check(images.shape[1:])
        parts = list(self.run(lambda rows: images[rows], len(images), quiet=True))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def stream(self, images, quiet=False):
        """The iterator that `run` returns, over all images of an ImageSet."""
        self.check(images.shape)
        return self.run(images.fetch, len(images), quiet)

    def check(self, shape):
        """Raises UserError for images of a shape (H, W, C) that it has no features of."""
        if self.shape is not None and tuple(shape) != tuple(self.shape):
            raise UserError(
                f"{self} makes features of images of {tuple(self.shape)}, and these are "
                f"{tuple(shape)}: give other features, or images of this shape."
            )
        if len(shape) != 3 or shape[-1] not in (1, 3):
            raise UserError(
                f"The images are {tuple(shape)}, and features are of (height, width, 1 or 3 "
                "channels): give images in grey or in RGB."
            )


@dataclasses.dataclass(frozen=True)
class Kind:
    """A network that has public weights.

    Attributes:
      network: without its parameters.
      outputs: {name: numbers for an image}.
      front_ends: that it can have, its own first.
      batch: images at once on an accelerator.
    """

    network: Network
    outputs: dict[str, int]
    front_ends: tuple[front_ends.FrontEnd, ...]
    batch: int = 128


KINDS = {
    "inception-2015": Kind(inception.INCEPTION, inception.OUTPUTS, front_ends.INCEPTION, batch=256),
    "efficientnet-lite0": Kind(
        efficientnet.LITE0, efficientnet.OUTPUTS, front_ends.EFFICIENTNET_LITE, batch=256
    ),
    "sscd": Kind(sscd.SSCD, sscd.OUTPUTS, front_ends.SSCD),
}
KINDS |= {
    f"dinov2-{size}": Kind(dinov2.network(config), {"features": config.width}, front_ends.DINOV2)
    for size, config in dinov2.SIZES.items()
}


def open_extractor(text, weights=None, mesh=None, batch_size=None):
    """The features that a text names.

    Args:
      text: NAME[:FRONT_END], such as "inception", "inception-2015:clean-fid" or
        "efficientnet-lite0"; or a classifier's run, such as runs/c@500.
      weights: a folder of public files of weights, or the file itself; None: $JAXDIFF_WEIGHTS.
        EfficientNet-Lite0's are found where its package is installed.
      mesh: the devices; None: all there are.
      batch_size: images at once over all devices; None: as suits them.

    Raises:
      UserError: if there is no such network, front end, file of weights or run.
    """
    mesh = make_mesh() if mesh is None else mesh
    name, _, front_end = text.partition(":")
    name = SHORT.get(name, name)
    if name in KINDS:
        return _of_network(name, front_end, weights, mesh, batch_size)
    if "/" not in text and not files.exists(files.parse_path(name.partition("@")[0], "--features")):
        raise UserError(
            f"--features is {text}, which is neither a network nor a classifier's run: "
            f"{nearest(name, [*SHORT, *KINDS])}"
        )
    return _of_run(text, mesh, batch_size)


def _of_network(name, front_end, path, mesh, batch_size):
    kind = KINDS[name]
    known = {each.name: each for each in kind.front_ends}
    front_end = front_end or kind.front_ends[0].name
    if front_end not in known:
        raise UserError(
            f"{name} has no front end {front_end!r:.90}: {nearest(front_end, list(known))}"
        )
    tensors, sha256, public = weights.read(name, kind.network.shapes, path)
    params = jax.device_put(kind.network.params(tensors), replicated(mesh))
    prepare = jax.jit(known[front_end], out_shardings=batch_sharding(mesh))
    forward = _forward(kind.network, mesh)

    def outputs(images):
        return forward(params, prepare(images))

    return Extractor(
        name=name,
        front_end=front_end,
        digest=sha256,
        outputs=kind.outputs,
        shape=None,
        run=_runner(name, outputs, mesh, kind.batch, batch_size),
        public=public,
    )


@functools.cache
def _forward(network, mesh):
    """A network as a program, which all front ends and sizes of images share."""
    return jax.jit(network, out_shardings=batch_sharding(mesh))


def _of_run(text, mesh, batch_size):
    """The last hidden layer of a classifier, on clean images at t = 0."""
    classifier = dataclasses.replace(load(text), mesh=mesh)
    if not classifier.config.is_classifier:
        raise UserError(f"{classifier} is a diffusion model: --features takes a classifier's run.")
    # In float32 whatever it was trained in.
    config = classifier.config
    if hasattr(config.model, "dtype"):
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, dtype="float32")
        )
    classifier = dataclasses.replace(classifier, config=config)
    network, codec, shape = classifier.network, classifier.codec, config.data.shape

    def outputs(params, images):
        with jax.default_matmul_precision("highest"):
            x = codec.encode(images)
            return {"features": network.features(params, x, jnp.zeros(len(images)))}

    images = jax.ShapeDtypeStruct((1, *shape), np.uint8)
    size = jax.eval_shape(outputs, network.shapes, images)["features"].shape[1]
    function = on_devices(outputs, (classifier.params,), mesh)
    return Extractor(
        name=str(classifier),
        front_end="",
        digest=digest(classifier.reference),
        outputs={"features": size},
        shape=shape,
        run=_runner(str(classifier), function, mesh, 512, batch_size),
    )


def _runner(name, function, mesh, batch, batch_size):
    """`Extractor.run` of a function: images [B, H, W, C] -> {output: [B, D]}."""

    def run(fetch, count, quiet=False, bar=None):
        done = 0
        options = {"quiet": quiet, "bar": bar, "even": False, "ahead": 1}
        size = batch_size or _batch_size(count, batch, mesh)
        with out_of_memory(f"choose a batch size smaller than {size}"):
            batches = stream(
                function, lambda rows: (fetch(rows),), count, batch_size=size, mesh=mesh, **options
            )
            for part in batches:
                _check_finite(part, done, name)
                done += len(next(iter(part.values())))
                yield part

    return run


def _batch_size(count, batch, mesh):
    """Images at once over all devices: the same for all large sets, so that programs are shared.

    CPUs are slower with more than a few images for each core, which leave their caches. For fewer
    than a batch it is the next power of 2, and at least 2: XLA multiplies one row by a matrix in
    another order than several.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    size = min(batch, 4 * os.cpu_count()) if on_cpu else batch * mesh.size
    return min(size, max(2, 2 ** (count - 1).bit_length()))


def _check_finite(part, before, name):
    for output, rows in part.items():
        if not np.isfinite(rows).all():
            first = before + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
            raise UserError(
                f"The {output} of image {first} by {name} are not finite: see whether its weights "
                "are, and leave this image out if they are."
            )
