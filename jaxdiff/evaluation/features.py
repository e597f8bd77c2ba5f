"""Features of images that distances are measured on, and the real data's moments, kept.

The features are a trained classifier's, its last hidden layer on clean images at t = 0. Another
network (Inception, DINOv2) is another `Features`, made in `open_features`.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxdiff import results
from jaxdiff.checkpoints.run import digest
from jaxdiff.data.images import to_float
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import in_batches, on_devices
from jaxdiff.parallel.memory import out_of_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import open_model

BATCH = 500


@dataclasses.dataclass(frozen=True)
class Features:
    """A network's view of images.

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
    folder: pathlib.Path

    def check(self, data):
        """Refuses a config's section `data` whose images are of another shape.

        Raises:
          UserError: for them.
        """
        shape = (data.image_size, data.image_size, data.channels)
        if shape != self.shape:
            raise UserError(
                f"{self.name} sees images of {self.shape}, and the model's are {shape}: give "
                "--features of the same images."
            )

    def __call__(self, images):
        """Features [N, D] float32 of uint8 images [N, H, W, C]."""
        return self.extract(lambda rows: images[rows], len(images), quiet=True)


def open_features(text):
    """The features that a classifier's reference, such as runs/digits_classifier, names.

    Raises:
      UserError: if it is no classifier's; `extract` raises it for features that are not finite.
    """
    classifier, mesh = open_model(text, "features", "a classifier"), make_mesh()
    network, data = classifier.network, classifier.config.data

    def run(params, images):
        return network.features(params, to_float(images), jnp.zeros(images.shape[0]))

    # Compiled once, for all sets of images of one size.
    function = on_devices(run, (classifier.params(mesh),), mesh)

    def extract(fetch, count, quiet):
        def batch(rows):
            return (fetch(rows),)

        with out_of_memory("measure with features of a smaller network"):
            rows = in_batches(function, batch, count, batch_size=BATCH, mesh=mesh, quiet=quiet)
        if len(bad := finite.non_finite(rows)):
            found = finite.about(finite.summary(bad), count, "images' features")
            raise UserError(f"{found} by {classifier}: use another step of it.")
        return rows

    return Features(
        name=str(classifier),
        digest=digest(classifier.reference),
        shape=(data.image_size, data.image_size, data.channels),
        extract=extract,
        folder=classifier.reference.run.folder / "moments",
    )


def real_moments(features, data, split="train"):
    """Moments of the features of a whole split; computed once, and kept under the features' run.

    Args:
      features: from `open_features`.
      data: a config's section `data`; its images must have the features' shape.
      split: of the dataset.

    Raises:
      UserError: for images of another shape, or a split that there is not.
    """
    features.check(data)
    source = open_split(data, split)
    settings = {
        "features": features.name,
        "digest": features.digest,
        "data": {name: data[name] for name in ("name", "image_size", "channels", "fit")},
        "request": _identity(data.name),
        "split": split,
        "size": len(source),
    }
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    path = features.folder / f"{key}.npz"
    kept = _kept(path)
    if not processes.any_process(kept is None):
        return kept
    rows = features.extract(lambda rows: source.fetch(rows)["image"], len(source), quiet=False)
    moments = Moments.of(rows)
    try:
        features.folder.mkdir(exist_ok=True)
        results.save(path, settings, vars(moments))
    except (OSError, UserError) as error:  # somebody else's run
        print(f"Moments of the data are not kept, as {path.parent} cannot be written: {error}")
    return moments


def _kept(path):
    """The Moments in a file; None if it is not there, or damaged."""
    try:
        arrays = results.load(path)
        moments = Moments(arrays["mean"], arrays["covariance"])
    except (UserError, KeyError):
        return None
    size = moments.mean.size
    shapes = moments.mean.shape == (size,) and moments.covariance.shape == (size, size)
    return moments if shapes and np.isfinite(moments.covariance).all() else None


def _identity(name):
    """What tells a prepared dataset from another of its name: a checksum of its request."""
    request = pathlib.Path(name) / "request.json"
    return hashlib.sha256(request.read_bytes()).hexdigest() if request.exists() else None
