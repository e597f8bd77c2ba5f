"""Many sets of samples of a run compared with its own data: in training, and in searches."""

import dataclasses
from functools import cached_property

import numpy as np

from jaxdiff import files
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.allowed import chosen
from jaxdiff.evaluation.extractors import Extractor
from jaxdiff.evaluation.images import FEATURES, ImageSet, digest_of
from jaxdiff.evaluation.measure import real_of
from jaxdiff.evaluation.references import Reference
from jaxdiff.evaluation.table import METRICS
from jaxdiff.evaluation.values import OPTIONS, Sides, values_of
from jaxdiff.sampling.settings import label_of


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What sets of samples are measured by; what is computed of the reference is kept.

    Attributes:
      extractor: an Extractor.
      reference: a Reference.
      metrics: names, from METRICS.
    """

    extractor: Extractor
    reference: Reference
    metrics: tuple[str, ...]

    def check(self, job):
        """Raises UserError if the samples of a job cannot be measured so; none are made."""
        labels = job.cond.get(label_of(job.cond))
        samples = ImageSet(
            name=f"{job.num_samples:,} samples of {job.model}",
            digest="",
            shape=job.model.config.data.shape,
            fetch=None,
            count=job.num_samples,
            read_labels=None if labels is None else lambda rows: labels[rows],
        )
        chosen(self.metrics, samples, self.reference, self.extractor, OPTIONS)

    def values(self, images, cond, say=lambda text: None):
        """A list of Values of samples, those of each metric in turn.

        Args:
          images: uint8 [N, H, W, C].
          cond: {name: array [N, ...]}, what they are conditioned on.
          say: takes a warning about what the values mean, each once.

        Raises:
          UserError: for features that are not finite.
        """
        rows, labels = self.extractor(images), cond.get(label_of(cond))
        found = values_of(Sides(rows, labels, self._real, OPTIONS, self._radii), self.metrics)
        for each in found:
            warning = f"{each.metric}: {each.warning}."
            if each.warning and warning not in self._said:
                self._said.add(warning)
                say(warning)
        return found

    @cached_property
    def _real(self):
        if not any(METRICS[name].compares for name in self.metrics):
            return None
        return real_of(self.reference, self.extractor, OPTIONS)

    @cached_property
    def _radii(self):
        return {}

    @cached_property
    def _said(self):
        return set()


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
        digest=digest_of(source, data),
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
