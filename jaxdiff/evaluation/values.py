"""From features of samples and of a reference to Values: one function for each metric."""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.evaluation.metrics import diversity, frechet, inception_score, kid, neighbours
from jaxdiff.evaluation.table import METRICS

SPLIT = 5000  # of the Inception score


@dataclasses.dataclass(frozen=True)
class Value:
    """One measured value.

    Attributes:
      metric: its name: one of METRICS, or of those that come with it (is_shuffled, is_10_splits,
        vendi_all).
      value: what was measured.
      deviation: its standard deviation over KID's subsets or IS' splits, or the standard error of
        the fit of fd_infinity; else None.
      note: the rule that it follows, such as "k=3, closed balls".
      warning: why it may mislead; empty: nothing is known.
      samples: number N of samples.
      reference_images: number M of the reference's images that it was compared with; None where it
        is compared with nothing, or the reference does not say.
    """

    metric: str
    value: float
    deviation: float | None = None
    note: str = ""
    warning: str = ""
    samples: int = 0
    reference_images: int | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """Numbers that values depend on.

    Attributes:
      reference_images: most images of the reference that neighbours and KID are computed from,
        spread evenly over it.
      kid_subsets: number of KID's subsets.
      kid_size: size of each of them.
    """

    reference_images: int = 10_000
    kid_subsets: int = 100
    kid_size: int = 1000


OPTIONS = Options()


@dataclasses.dataclass(frozen=True)
class Sides:
    """Features of both sides, and what several metrics use.

    Attributes:
      rows: {output: [N, D] float32} of the samples.
      labels: int [N]; None: they have none.
      real: the reference's Statistics; None: there is none.
      options: Options.
      radii: {k: radii of the reference's balls}, filled as they are needed.
    """

    rows: dict[str, np.ndarray]
    labels: np.ndarray | None
    real: Any
    options: Options = OPTIONS
    radii: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self):
        return len(next(iter(self.rows.values())))

    def take(self, numbers):
        """The Sides of some of the samples."""
        rows = {output: rows[numbers] for output, rows in self.rows.items()}
        labels = None if self.labels is None else self.labels[numbers]
        return dataclasses.replace(self, rows=rows, labels=labels)

    @property
    def sets(self):
        """(features of the reference's images [M, D], features of the samples [N, D])."""
        return self.real.features, self.rows["features"]

    def radii_of_real(self, k):
        """Radii [M] of the reference's balls, computed once for all samples."""
        if k not in self.radii:
            self.radii[k] = neighbours.radii(self.real.features, k)
        return self.radii[k]

    @cached_property
    def closed(self):
        """(precision, recall) with closed balls."""
        return self._precision_recall(METRICS["precision"].k, "closed")

    @cached_property
    def open(self):
        """(precision, recall) with open balls."""
        return self._precision_recall(METRICS["precision_open"].k, "open")

    def _precision_recall(self, k, ball):
        real, fake = self.sets
        balls = self.radii_of_real(k), neighbours.radii(fake, k)
        return neighbours.precision_recall(real, fake, k=k, ball=ball, balls=balls)

    @cached_property
    def density_coverage(self):
        """Of open balls."""
        k = METRICS["density"].k
        return neighbours.density_coverage(*self.sets, k=k, balls=self.radii_of_real(k))


def values_of(sides, metrics):
    """A list of Values of metrics that mean something, those of each metric in turn."""
    values = []
    for name in metrics:
        for value in FUNCTIONS[name](name, sides):
            real = len(sides.real.features) if METRICS[name].images else value.reference_images
            values.append(dataclasses.replace(value, samples=len(sides), reference_images=real))
    return values


def _distance(name, sides):
    output = METRICS[name].output
    real, rows = sides.real.moments[output], sides.rows[output]
    value = frechet.distance(real, frechet.Moments.of(rows))
    count = sides.real.count
    warning = "; ".join(filter(None, (sides.real.warning, _few(rows, count))))
    return [Value(name, value, warning=warning, reference_images=count)]


def _few(rows, count):
    """A warning about a distance of no more images than the features have dimensions."""
    sides, size = {"samples": len(rows), "reference images": count}, rows.shape[1]
    if not (few := [f"{n} {what}" for what, n in sides.items() if n and n <= size]):
        return ""
    return (
        f"{' and '.join(few)} are no more than the {size} dimensions of the features, so that it "
        "is biased far upwards: compare at these numbers alone"
    )


def _distance_infinity(name, sides):
    real, rows = sides.real.moments["features"], sides.rows["features"]
    value, error = frechet.fd_infinity(real, rows)
    note = "linear in 1/n, 15 sizes; deviation is the standard error of the fit"
    count = sides.real.count
    smallest = len(rows) // 10
    warning = ""
    if smallest <= rows.shape[1]:
        warning = (
            f"its smallest subset has {smallest} samples, no more than the {rows.shape[1]} "
            "dimensions of the features, where distances are not yet linear in 1/n"
        )
    return [Value(name, value, error, note, warning, reference_images=count)]


def _kid(name, sides):
    size, subsets = sides.options.kid_size, sides.options.kid_subsets
    value, deviation = kid.kid(*sides.sets, subsets=subsets, size=size)
    return [Value(name, value, deviation, f"{subsets} subsets of {size}")]


def _inception_score(name, sides):
    logits, size = sides.rows["logits"], SPLIT
    warning = ""
    if len(logits) > size and _is_sorted(sides.labels):
        warning = (
            "the samples are sorted by class, so that a split holds few classes: see is_shuffled"
        )
    note = f"consecutive splits of {size}"
    ten, deviation = inception_score.ten_splits(logits)
    return [
        Value(name, inception_score.splits_in_order(logits), note=note, warning=warning),
        Value("is_shuffled", inception_score.shuffled(logits), note=f"shuffled splits of {size}"),
        Value("is_10_splits", ten, deviation, "10 shuffled splits"),
    ]


def _is_sorted(labels):
    """Whether there are several classes, and the samples of each come together."""
    if labels is None:
        return False
    classes = len(np.unique(labels))
    return classes > 1 and np.count_nonzero(labels[1:] != labels[:-1]) == classes - 1


def _balls(attribute, kind):
    def values(name, sides):
        first = name.startswith(("precision", "density"))
        value = getattr(sides, attribute)[0 if first else 1]
        return [Value(name, value, note=f"k={METRICS[name].k}, {kind} balls")]

    return values


def _vendi(name, sides):
    rows, labels = _directions(sides), sides.labels
    if labels is None:
        return [Value(name, diversity.vendi(rows), note="of one set, as there are no labels")]
    value = diversity.vendi(rows, labels)
    return [
        Value(name, value, note=_conditions(labels)),
        Value("vendi_all", diversity.vendi(rows), note="of one set"),
    ]


def _mss(name, sides):
    value = diversity.mss(_directions(sides), sides.labels)
    return [Value(name, value, note=_conditions(sides.labels))]


def _directions(sides):
    """The samples' features, none of which may be 0."""
    rows = sides.rows["features"]
    if len(zeros := np.flatnonzero(~rows.any(1))):
        raise UserError(
            f"The features of sample {zeros[0]} are all 0, which has no direction: measure neither "
            "vendi nor mss, or with other --features."
        )
    return rows


def _conditions(labels):
    """Such as "mean over 10 conditions of 95 to 100 samples"."""
    counts = np.unique(labels, return_counts=True)[1]
    low, high = counts.min(), counts.max()
    size = f"{low}" if low == high else f"{low} to {high}"
    return f"mean over {len(counts)} conditions of {size} samples"


FUNCTIONS = {  # name: (name, sides) -> Values
    "fid": _distance,
    "sfid": _distance,
    "is": _inception_score,
    "fd": _distance,
    "fd_infinity": _distance_infinity,
    "kid": _kid,
    "precision": _balls("closed", "closed"),
    "recall": _balls("closed", "closed"),
    "precision_open": _balls("open", "open"),
    "recall_open": _balls("open", "open"),
    "density": _balls("density_coverage", "open"),
    "coverage": _balls("density_coverage", "open"),
    "vendi": _vendi,
    "mss": _mss,
}
