"""The metrics by name, and what each is computed from; docs/evaluation.md has their definitions.

Nothing here imports JAX, so that a command line can check names at once.
"""

import dataclasses
from typing import Annotated

from jaxdiff.config.fields import Range, nearest, shown
from jaxdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is computed from.

    Attributes:
      meaning: what it measures.
      output: of the extractor, which it reads: `features`, `spatial` or `logits`.
      moments: whether it needs the reference's mean and covariance.
      images: whether it needs images of the reference, one by one.
      labels: whether it needs the samples' labels.
      k: neighbour whose distance is the radius of a ball; 0: it has no balls.
      lower: whether lower is better.
    """

    meaning: str
    output: str = "features"
    moments: bool = False
    images: bool = False
    labels: bool = False
    k: int = 0
    lower: bool = False

    @property
    def compares(self):
        """Whether it needs a reference."""
        return self.moments or self.images


METRICS = {
    "fid": Metric("Frechet distance of Inception's pool features", moments=True, lower=True),
    "sfid": Metric(
        "Frechet distance of Inception's spatial features",
        output="spatial",
        moments=True,
        lower=True,
    ),
    "is": Metric("Inception score", output="logits"),
    "fd": Metric("Frechet distance of the features", moments=True, lower=True),
    "fd_infinity": Metric(
        "Frechet distance, extrapolated to infinitely many samples", moments=True, lower=True
    ),
    "kid": Metric("squared kernel distance (MMD)", images=True, lower=True),
    "precision": Metric("share of samples in a closed ball of a real image", images=True, k=3),
    "recall": Metric("share of real images in a closed ball of a sample", images=True, k=3),
    "precision_open": Metric("precision with open balls", images=True, k=5),
    "recall_open": Metric("recall with open balls", images=True, k=5),
    "density": Metric("mean count of real images' balls around a sample, by k", images=True, k=5),
    "coverage": Metric("share of real images with a sample in their ball", images=True, k=5),
    "vendi": Metric("effective number of different samples of a condition"),
    "mss": Metric("mean similarity of samples of a condition", labels=True, lower=True),
}
# What is measured where nothing is asked for, as far as features and inputs allow it.
DEFAULT = ("fid", "fd", "sfid", "is", "kid", "precision", "recall", "density", "coverage")
DEFAULT += ("vendi", "mss")
# Numbers that values depend on, see jaxdiff.evaluation.values.Options.
RANGES = {
    "reference_images": Annotated[int, Range(2, 2**31 - 1)],
    "kid_subsets": Annotated[int, Range(1, 2**31 - 1)],
    "kid_size": Annotated[int, Range(2, 2**31 - 1)],
}


def checked(names):
    """Names of METRICS, each once; UserError for one that there is not."""
    if not names:
        raise UserError(f"No metrics are named: there are {', '.join(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise UserError(f"There is no metric {shown(name)}: {nearest(name, list(METRICS))}")
    return tuple(dict.fromkeys(names))
