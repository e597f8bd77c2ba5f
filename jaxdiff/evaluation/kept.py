"""Features of images, computed once for each set of images and extractor, and kept beside them.

FOLDER/KEY.IMAGES.npz           features of all images of a set, {output: float32 [N, D]}
FOLDER/KEY.IMAGES.moments.npz   mean and covariance of those of a set too large to keep them all

FOLDER is the set's, KEY the extractor's, and IMAGES the first 8 characters of the set's digest. A
file holds the full digests of both; one of others, or a corrupt one, is written again.
"""

import dataclasses

import numpy as np

from jaxdiff import claims, files
from jaxdiff.arrays import load_npz
from jaxdiff.checked_json import parse_json
from jaxdiff.errors import UserError
from jaxdiff.evaluation.images import ImageSet
from jaxdiff.evaluation.metrics.frechet import Moments, Sums
from jaxdiff.parallel import processes

WITH_MOMENTS = ("features", "spatial")  # outputs whose moments are of use
PARTS = ("mean", "covariance")
CODE = 1  # raised when a network or front end computes something else: older files are not read


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What the metrics need to know of a reference.

    Attributes:
      count: number of images that the moments are of; None: unknown.
      moments: {output: Moments}.
      features: float32 [R, D] of some of its images; None where it has no images.
      rows: int [R], their numbers in the reference's set.
      images: the ImageSet of these R, or None.
      warning: why distances from the moments may mislead; empty: nothing is known.
    """

    count: int | None
    moments: dict[str, Moments]
    features: np.ndarray | None = None
    rows: np.ndarray | None = None
    images: ImageSet | None = None
    warning: str = ""

    @property
    def labels(self):
        """Classes of the R images, int [R]; None where they have none."""
        return self.images and self.images.labels


def features_of(images, extractor, quiet=False):
    """{output: float32 [N, D]} of all images of an ImageSet, by an Extractor.

    Raises:
      UserError: for images that cannot be read, or features that are not finite.
    """
    return _rows(images, extractor, tuple(extractor.outputs), quiet)


def statistics_of(reference, extractor, rows=10_000, quiet=False):
    """The Statistics of a Reference, by an Extractor.

    Moments are the file's where it has them, else of all images, of which a batch is in memory at a
    time. The features are those of the images with the numbers n N // R, n = 0 .. R - 1.

    Args:
      reference: a Reference.
      extractor: of the features.
      rows: R; all images where there are fewer.
      quiet: whether to show no progress.

    Raises:
      UserError: if it has neither images nor moments of these features; as `features_of`.
    """
    images, given = reference.images, reference.moments_of(extractor)
    warning = ""
    if given and not (extractor.public or reference.has_weights_of(extractor)):
        warning = (
            f"{reference.name} does not say which weights its moments are of, and these are not "
            "the public ones: the distance means something only if they are the same"
        )
    if images is None:
        if not given:
            raise UserError(
                f"{reference.name} has no images, and moments of {' and '.join(reference.moments)} "
                f"but not of {extractor}: give other --features, or another reference."
            )
        count = next(iter(given.values())).count
        return Statistics(count=count, moments=given, warning=warning)
    if len(images) < 2 and not given:
        raise UserError(f"{reference.name} has one image: give a reference of two at least.")
    chosen = spread(len(images), rows)
    some = images if len(chosen) == len(images) else images.take(chosen)
    if given:
        count, moments = next(iter(given.values())).count, given
        features = _rows(some, extractor, ("features",), quiet)["features"]
    else:
        count = len(images)
        moments, features = _of_images(images, some, chosen, extractor, quiet)
    return Statistics(
        count=count,
        moments=moments,
        features=features,
        rows=chosen,
        images=some,
        warning=warning,
    )


def spread(count, most):
    """Numbers of at most `most` of `count` things, spread evenly over them."""
    most = min(most, count)
    return np.arange(most) * count // most


def _rows(images, extractor, names, quiet):
    """{output: [N, D]} of these outputs."""
    path, settings = _place(images, extractor)
    if found := _load(path, settings, names):
        return found
    size = len(images)
    found = {name: np.empty((size, extractor.outputs[name]), np.float32) for name in names}
    start = 0
    for batch in extractor.stream(images, quiet):
        stop = start + len(batch[names[0]])
        for name in names:
            found[name][start:stop] = batch[name]
        start = stop
    _save(images, [(path, settings, found)])
    return found


def _of_images(images, some, chosen, extractor, quiet):
    """({output: Moments} of all images, features [R, D] of some)."""
    names = tuple(name for name in WITH_MOMENTS if name in extractor.outputs)
    found = _load(*_place(images, extractor), names)
    if found is None and some is images:
        found = _rows(images, extractor, names, quiet)
    if found:
        return {n: Moments.of(found[n]) for n in names}, found["features"][chosen]
    path, settings = _place(images, extractor, ".moments")
    keys = {(name, part): f"{name}_{part}" for name in names for part in PARTS}
    if found := _load(path, settings, keys.values()):
        of = {n: Moments(*(found[keys[n, part]] for part in PARTS), len(images)) for n in names}
        return of, _rows(some, extractor, ("features",), quiet)["features"]
    moments, features = _streamed(images, chosen, extractor, names, quiet)
    content = {key: getattr(moments[name], part) for (name, part), key in keys.items()}
    _save(images, [(path, settings, content), (*_place(some, extractor), {"features": features})])
    return moments, features


def _streamed(images, chosen, extractor, names, quiet):
    """The same in one pass over the images, of which a batch is in memory at a time."""
    sums, parts, start = {name: Sums() for name in names}, [], 0
    for batch in extractor.stream(images, quiet):
        size = len(batch["features"])
        first, last = np.searchsorted(chosen, (start, start + size))
        parts.append(batch["features"][chosen[first:last] - start])
        for name in names:
            sums[name].add(batch[name])
        start += size
    return {name: sums[name].moments() for name in names}, np.concatenate(parts)


def _place(images, extractor, what=""):
    """(path or None, settings) of the file of a set's features."""
    settings = {
        "images": images.digest,
        "shape": [len(images), *images.shape],
        "extractor": str(extractor),
        "digest": extractor.digest,
        "code": CODE,
    }
    name = f"{extractor.key}.{images.digest[:8]}{what}.npz"
    return images.folder and images.folder / name, settings


def _load(path, settings, names):
    """{name: array} of a file with these settings; None, in all processes, unless each has it."""
    found = None
    try:
        if path is not None and files.exists(path):
            text = str(load_npz(path, ["settings"])["settings"])
            if parse_json(text, path) == settings:
                found = load_npz(path, names)
    except UserError:  # it is corrupt, or lacks one of them
        found = None
    return None if processes.any_process(found is None) else found


def _save(images, entries):
    """Writes files of (path, settings, arrays), if the set has a place for them."""
    if images.folder is None:
        return
    try:
        for entry in entries:
            claims.save(*entry)
    except UserError as error:  # the images may be somebody else's
        if processes.is_first():
            print(f"Features of {images.name} are not kept: {error}", flush=True)
