"""A run's own data as what its samples are compared with, and its samples before there are any."""

import numpy as np

from jaxdiff import files
from jaxdiff.data.record import checksum
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.images import FEATURES, ImageSet
from jaxdiff.evaluation.references import Reference
from jaxdiff.sampling.settings import label_of


def reference_of(config, split, folder, source=None):
    """The Reference of a split of a run's data: images as the run is trained on them.

    Their features are kept beside a prepared dataset, and in the run's folder of others.

    Args:
      config: the run's RunConfig.
      split: of its dataset.
      folder: of the run.
      source: the split, if it is open already.

    Raises:
      UserError: for a split that there is not, or data that are no images of bytes.
    """
    data = config.data
    source = source or open_split(data, split, config.model.conditions)
    first = source.fetch([0])["x"]
    if first.dtype != np.uint8 or first.ndim != 4:
        raise UserError(
            f"The split {split} holds {first.dtype} {first.shape[1:]}, and metrics are of uint8 "
            "images: measure a run of images."
        )
    label = config.label and config.label.name
    name = getattr(data, "name", "") or getattr(data, "prepare", "") or data.kind
    images = ImageSet(
        name=f"{name}:{split}",
        digest=checksum(source),
        shape=first.shape[1:],
        fetch=lambda rows: source.fetch(rows)["x"],
        count=len(source),
        read_labels=label and (lambda rows: source.fetch(rows)["cond"][label]),
        class_names=source.class_names,
        folder=_folder_of_features(data, folder),
    )
    return Reference(name=images.name, digest=images.digest, images=images, moments={})


def _folder_of_features(data, folder):
    if getattr(data, "name", ""):
        path = files.parse_path(data.name, "data.name")
        if files.is_folder(path):
            return path.with_name(f"{path.name}.{FEATURES}")
    return folder / FEATURES


def samples_to_come(job):
    """An ImageSet of the samples of a job, to check what can be measured; it has no images yet."""
    labels = job.cond.get(label_of(job.cond))
    return ImageSet(
        name=f"{job.num_samples:,} samples of {job.model}",
        digest="",
        shape=job.model.config.data.shape,
        fetch=None,
        count=job.num_samples,
        read_labels=None if labels is None else lambda rows: labels[rows],
    )
