"""Features of images that distances are measured on, and a cache of the real images' moments.

The features are a trained classifier's, its last hidden layer on clean images at t = 0. Another
network (Inception, DINOv2) is another `Features`, made in `open_features`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import claims
from jaxdiff.arrays import load_npz
from jaxdiff.checkpoints.run import digest
from jaxdiff.data.record import checksum
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.metrics.frechet import Moments
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import load

BATCH = 500


@dataclasses.dataclass(frozen=True)
class Features:
    """A network that turns images into vectors.

    Attributes:
      name: of the network, exactly.
      digest: of its parameters.
      shape: of one image, (H, W, C).
      extract: (fetch, count, quiet) -> [count, D] float32, of fetch(rows [B] int) -> uint8 images
        [B, H, W, C].
      folder: where the real data's moments are kept.
    """

    name: str
    digest: str
    shape: tuple[int, int, int]
    extract: Callable[..., np.ndarray]
    folder: epath.Path

    def check(self, shape):
        """Raises UserError for images of another shape (H, W, C)."""
        if shape != self.shape:
            raise UserError(
                f"{self.name} makes features of images of {self.shape}, and the model's are "
                f"{shape}: give --features of the same images."
            )

    def __call__(self, images):
        """Features [N, D] float32 of uint8 images [N, H, W, C]."""
        return self.extract(lambda rows: images[rows], len(images), quiet=True)


def open_features(text):
    """The features of a classifier, given as a reference such as runs/a_classifier.

    Raises:
      UserError: if it is no classifier's; `extract` raises it for features that are not finite.
    """
    classifier, mesh = load(text), make_mesh()
    if not classifier.config.is_classifier:
        raise UserError(f"{classifier} is a diffusion model: --features takes a classifier's run.")
    network, codec = classifier.network, classifier.codec

    def run(params, images):
        return network.features(params, codec.encode(images), jnp.zeros(images.shape[0]))

    # Compiled once, for all sets of images of one size.
    function = on_devices(run, (classifier.params,), mesh)

    def extract(fetch, count, quiet):
        def batch(rows):
            return (fetch(rows),)

        with out_of_memory("measure with features of a smaller network"):
            rows = in_batches(function, batch, count, batch_size=BATCH, mesh=mesh, quiet=quiet)
        if len(wrong := finite.non_finite(rows)):
            found = finite.about(finite.summary(wrong), count, "images' features")
            raise UserError(f"{found} by {classifier}: use another step of it.")
        return rows

    return Features(
        name=str(classifier),
        digest=digest(classifier.reference),
        shape=classifier.config.data.shape,
        extract=extract,
        folder=classifier.reference.run.folder / "moments",
    )


def real_moments(features, config, split="train"):
    """Moments of the features of a whole split; computed once, and kept under the features' run.

    Args:
      features: from `open_features`.
      config: the RunConfig of a model of images of the features' shape.
      split: of its dataset.

    Raises:
      UserError: for images of another shape, or a split that there is not.
    """
    features.check(config.data.shape)
    source = open_split(config.data, split, config.model.conditions)
    settings = {
        "features": features.name,
        "digest": features.digest,
        "shape": features.shape,
        "split": split,
        "examples": checksum(source),
    }
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    path = features.folder / f"{key}.npz"
    kept = _kept(path)
    if not processes.any_process(kept is None):
        return kept
    rows = features.extract(lambda rows: source.fetch(rows)["x"], len(source), quiet=False)
    moments = Moments.of(rows)
    try:
        claims.save(path, settings, vars(moments))
    except UserError as error:  # the run may be somebody else's
        print(f"Moments of the data are not kept: {error}")
    return moments


def _kept(path):
    """The Moments in a file; None if it is not there, or corrupt."""
    try:
        arrays = load_npz(path)
        return Moments(arrays["mean"], arrays["covariance"])
    except (UserError, KeyError):
        return None
