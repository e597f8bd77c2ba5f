"""Metrics of a set of samples: from images and a reference to Values, or a reason why not.

    found = jaxdiff.evaluate("samples/x", "data/fashion", features="efficientnet-lite0")
    found["fd"].value, found["fd"].samples

Whatever is compared with a reference depends on the numbers of images of both sides, which each
Value holds. A value that would mean nothing is refused before any features are computed.
"""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.images import ImageSet, of_arrays, open_images
from jaxdiff.evaluation.kept import features_of, statistics_of
from jaxdiff.evaluation.metrics import diversity, frechet, inception_score, kid, neighbours
from jaxdiff.evaluation.references import Reference, open_reference
from jaxdiff.evaluation.table import DEFAULT, FEWEST_OF_FIT, METRICS, checked
from jaxdiff.sampling import finite


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


def evaluate(
    samples,
    reference=None,
    metrics=None,
    *,
    features="inception",
    weights=None,
    split=None,
    image_size=None,
    reference_images=10_000,
    kid_subsets=100,
    kid_size=1000,
):
    """Measures samples against a reference: {metric: Value}.

    Args:
      samples: a folder or file of samples, a folder of pictures, or a dataset, by its path; a
        jaxdiff.Samples; or uint8 images [N, H, W, C].
      reference: the same of real images, or a file of statistics; None: only metrics that need
        none are measured.
      metrics: names such as ("fd", "recall"); None: those that the features and the images allow.
      features: NAME[:FRONT_END] of the network: "inception", "dinov2-vitl14", "sscd",
        "efficientnet-lite0", or a classifier's run.
      weights: folder of the networks' weights, or the file; None: $JAXDIFF_WEIGHTS.
      split: of a reference that is a dataset.
      image_size: height and width that pictures are cropped and resized to; None: they have one.
      reference_images: most images of the reference for neighbours and KID.
      kid_subsets, kid_size: number and size of KID's subsets.

    Raises:
      UserError: for samples, references, weights or metrics that cannot be used.
    """
    options = Options(reference_images, kid_subsets, kid_size)
    samples = as_images(samples, image_size=image_size)
    if reference is not None and not isinstance(reference, Reference):
        if isinstance(reference, str) or hasattr(reference, "__fspath__"):
            reference = open_reference(reference, split=split, image_size=image_size)
        else:
            images = as_images(reference, name="reference")
            reference = Reference(images.name, images.digest, images, {})
    extractor = open_extractor(features, weights)
    names, _ = chosen(metrics, samples, reference, extractor, options)
    values = measure(samples, reference, extractor, names, options=options)
    return {each.metric: each for each in values}


def as_images(given, name="samples", **options):
    """The ImageSet of a path, of Samples, or of an array of images."""
    if isinstance(given, ImageSet):
        return given
    if isinstance(given, str) or hasattr(given, "__fspath__"):
        return open_images(given, **options)
    if isinstance(given, np.ndarray):
        return of_arrays(given, name=name)
    if len(given.non_finite):
        found = finite.summary(given.non_finite)
        raise UserError(f"{finite.about(found, len(given))}: give samples that all are.")
    labels = next((each for each in given.cond.values() if each.dtype.kind == "i"), None)
    return of_arrays(given.images, labels, name=name, class_names=given.class_names)


def measure(samples, reference, extractor, metrics, *, options=OPTIONS, quiet=False):
    """Measures samples: a list of Values, those of each metric in turn.

    Args:
      samples: an ImageSet.
      reference: a Reference; None where no metric needs one.
      extractor: an Extractor.
      metrics: names, from METRICS.
      options: Options.
      quiet: whether to show no progress.

    Raises:
      UserError: for a value that would mean nothing.
    """
    chosen(metrics, samples, reference, extractor, options)
    rows = features_of(samples, extractor, quiet)
    is_needed = any(METRICS[name].compares for name in metrics)
    real = real_of(reference, extractor, options, quiet) if is_needed else None
    return values_of(Sides(rows, samples.labels, real, options), metrics)


def real_of(reference, extractor, options, quiet=False):
    """The Statistics of a reference."""
    return statistics_of(reference, extractor, options.reference_images, quiet)


# What can be measured.


def chosen(metrics, samples, reference, extractor, options, count=None):
    """Which metrics are measured: (names, {name that is left out: why}).

    Args:
      metrics: names that were asked for; None: those of DEFAULT that mean something here.
      samples, reference, extractor, options: of `measure`.
      count: number of samples of each value; None: all.

    Raises:
      UserError: for sets that cannot be compared, and for a metric that was asked for and would
        mean nothing.
    """
    count = len(samples) if count is None else count
    _check_sets(samples, count, reference, extractor)
    asked = DEFAULT if metrics is None else checked(metrics)
    given = (samples, count, reference, extractor, options)
    obstacles = {name: found for name in asked if (found := _obstacle(name, *given))}
    if metrics is not None and obstacles:
        name, (why, advice) = next(iter(obstacles.items()))
        raise UserError(f"The metric {name} cannot be measured, as {why}: {advice}.")
    names = [name for name in asked if name not in obstacles]
    if metrics is None and "fid" in names:
        names.remove("fd")  # which would be the same number
    if not names:
        why, advice = obstacles["vendi"]
        raise UserError(f"No metric can be measured, as {why}: {advice}.")
    return tuple(names), {name: why for name, (why, _) in obstacles.items()}


def _check_sets(samples, count, reference, extractor):
    """Raises UserError for images that no metric can be measured on."""
    if count < 2:
        raise UserError(f"{samples.name} has {count} samples: give at least 2.")
    if len(samples.non_finite):
        found = finite.about(finite.summary(np.asarray(samples.non_finite)), len(samples))
        raise UserError(f"{samples.name}: {found}: give samples that all are.")
    real = reference and reference.images
    for images in filter(None, (samples, real)):
        if extractor.shape is not None and tuple(images.shape) != tuple(extractor.shape):
            raise UserError(
                f"The images of {images.name} are {_size(images.shape)}, and {extractor} takes "
                f"{_size(extractor.shape)}: give images of that size, or other --features."
            )
    if real and tuple(real.shape[:2]) != tuple(samples.shape[:2]):
        raise UserError(
            f"{samples.name} has images of {_size(samples.shape[:2])} pixels, and the reference "
            f"{real.name} of {_size(real.shape[:2])}: give a reference of the samples' size."
        )


def _size(shape):
    return "x".join(map(str, shape))


def _obstacle(name, samples, count, reference, extractor, options):
    """(why a metric would mean nothing, what to do); None: it means something."""
    metric, labels = METRICS[name], samples.labels
    if metric.output not in extractor.outputs:
        why = f"{extractor} has no {metric.output} output"
        return why, "use --features inception, or leave it out"
    is_fid = extractor.name.startswith("inception") and extractor.front_end == "tf1-bilinear"
    if name == "fid" and not is_fid:
        why = f"FID has the features inception-2015, tf1-bilinear, and these are {extractor}"
        return why, "ask for fd, the same distance of any features"
    if metric.labels and labels is None:
        return f"{samples.name} has no labels", "give samples with labels, or leave it out"
    if metric.labels and len(np.unique(labels)) == len(labels):
        return f"no two of the {len(labels)} samples have one label", "give more samples"
    if name == "fd_infinity" and count < FEWEST_OF_FIT:
        return f"{count} samples are too few to extrapolate from", f"give {FEWEST_OF_FIT} or more"
    if metric.compares:
        return _obstacle_of_reference(name, metric, count, reference, extractor, options)
    return None


def _obstacle_of_reference(name, metric, count, reference, extractor, options):
    if reference is None:
        return "there is no reference", "give a --reference, or leave it out"
    images = reference.images
    if images is None and (
        metric.images or metric.output not in reference.moments.get(extractor.name, {})
    ):
        has = "images" if metric.images else f"images or moments of {extractor.name}"
        has += "'s spatial output" if metric.output == "spatial" else ""
        return f"{reference.name} has no {has}", "give another --reference, or leave it out"
    if metric.moments and images is not None and len(images) < 2:
        return f"{reference.name} has {len(images)} image", "give a reference of more"
    if not metric.images:
        return None
    sides = {"samples": count, "reference images": min(len(images), options.reference_images)}
    what, fewest = min(sides.items(), key=lambda side: side[1])
    if fewest <= metric.k:
        why = f"its neighbourhood is of {metric.k} others and there are {fewest} {what}"
        return why, f"give {metric.k + 1} or more"
    if name == "kid" and fewest < options.kid_size:
        why = f"its subsets of {options.kid_size} are larger than the {fewest} {what}"
        return why, "give more images, or a smaller --kid_size"
    return None


# The values.


@dataclasses.dataclass(frozen=True)
class Sides:
    """Features of both sides.

    Attributes:
      rows: {output: [N, D] float32} of the samples.
      labels: int [N]; None: they have none.
      real: the reference's Statistics; None: there is none.
      options: Options.
    """

    rows: dict[str, np.ndarray]
    labels: np.ndarray | None
    real: Any
    options: Options = OPTIONS

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

    @cached_property
    def closed(self):
        """(precision, recall) with closed balls."""
        return neighbours.precision_recall(*self.sets, k=METRICS["precision"].k, ball="closed")

    @cached_property
    def open(self):
        """(precision, recall) with open balls."""
        return neighbours.precision_recall(*self.sets, k=METRICS["precision_open"].k, ball="open")

    @cached_property
    def balls(self):
        """(density, coverage)."""
        return neighbours.density_coverage(*self.sets, k=METRICS["density"].k)


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
    return [Value(name, value, warning=_few(rows, count), reference_images=count)]


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
    warning = _few(rows[: len(rows) // 10], count)
    return [Value(name, value, error, note, warning, reference_images=count)]


def _kid(name, sides):
    size, subsets = sides.options.kid_size, sides.options.kid_subsets
    value, deviation = kid.kid(*sides.sets, subsets=subsets, size=size)
    return [Value(name, value, deviation, f"{subsets} subsets of {size}")]


def _inception_score(name, sides):
    logits, size = sides.rows["logits"], 5000
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
    rows, labels = sides.rows["features"], sides.labels
    if labels is None:
        return [Value(name, diversity.vendi(rows), note="of one set, as there are no labels")]
    value = diversity.vendi(rows, labels)
    return [
        Value(name, value, note=_conditions(labels)),
        Value("vendi_all", diversity.vendi(rows), note="of one set"),
    ]


def _mss(name, sides):
    value = diversity.mss(sides.rows["features"], sides.labels)
    return [Value(name, value, note=_conditions(sides.labels))]


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
    "density": _balls("balls", "open"),
    "coverage": _balls("balls", "open"),
    "vendi": _vendi,
    "mss": _mss,
}
