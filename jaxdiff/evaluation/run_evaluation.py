"""An evaluation from flags to files: sets opened, checked, measured, printed and written."""

import dataclasses

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.evaluation import nearest, report
from jaxdiff.evaluation.allowed import chosen
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.images import open_images
from jaxdiff.evaluation.kept import features_of
from jaxdiff.evaluation.measure import real_of
from jaxdiff.evaluation.references import open_reference, write_reference
from jaxdiff.evaluation.table import METRICS
from jaxdiff.evaluation.values import OPTIONS, Options, Sides, values_of
from jaxdiff.parallel import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What an evaluation is asked for; the fields are the flags of `evaluate.py`."""

    samples: tuple[str, ...]
    reference: str | None = None
    split: str | None = None
    image_size: int | None = None
    fit: str = "crop"
    features: str = "inception"
    weights: str | None = None
    metrics: tuple[str, ...] | None = None
    num_samples: int | None = None
    seeds: tuple[int, ...] = (0,)
    options: Options = OPTIONS
    nearest: int | None = None
    out: str | None = None
    batch_size: int | None = None


def run(request):
    """Measures, prints and writes.

    Raises:
      UserError: for whatever cannot be used; before any features are computed where that can be
        seen by then.
    """
    place = report.place_of(request.out, request.samples[0])
    extractor = open_extractor(request.features, request.weights, batch_size=request.batch_size)
    fit = {"image_size": request.image_size, "fit": request.fit}
    sets = [open_images(text, **fit) for text in request.samples]
    _check_repeats(request, sets)
    reference = None
    if request.reference is not None:
        reference = open_reference(request.reference, split=request.split, **fit)
    names, left_out = _chosen(request, sets, reference, extractor)
    if request.nearest is not None:
        nearest.check(request.nearest, sets[0], reference, place)
    _say(*_head(sets, reference, extractor))
    # Those of the samples first: where one is not finite, that is known soon.
    rows = [_rows(images, extractor, names) for images in sets]
    is_needed = request.nearest is not None or any(METRICS[name].compares for name in names)
    real = real_of(reference, extractor, request.options) if is_needed else None
    repeats = _measured(request, sets, rows, real, names)
    records = report.records_of(repeats, reference, extractor)
    _say("", *_repeated(request, sets), *report.printed(records))
    _say(*_left_out(left_out))
    report.write(place, records)
    _say(f"Wrote {place.path('metrics.json')} and {place.path('metrics.csv').name}.")
    if request.nearest is not None:
        features, total = rows[0]["features"], len(reference.images)
        found = nearest.search(features, real.features, total, request.nearest)
        nearest.write(found, sets[0], reference, extractor, place)
        _say(*nearest.described(found, place))


def _say(*lines):
    if processes.is_first():
        for line in lines:
            print(line, flush=True)


def _check_repeats(request, sets):
    """Raises UserError for repeats that would be the same, and subsets that are too large."""
    digests = {}
    for images in sets:
        if (other := digests.setdefault(images.digest, images)) is not images:
            raise UserError(
                f"--samples {other.name} and {images.name} hold the same images: give each once."
            )
    if (count := request.num_samples) is None:
        if other := next((each for each in sets if len(each) != len(sets[0])), None):
            raise UserError(
                f"--samples {sets[0].name} has {len(sets[0])} samples and {other.name} "
                f"{len(other)}, whose values do not compare: give as many, or --num_samples."
            )
        return
    for images in sets:
        if count > len(images):
            raise UserError(
                f"--num_samples {count} is more than the {len(images)} samples of {images.name}: "
                "give fewer, or make more samples."
            )
        if count == len(images) and len(request.seeds) > 1:
            raise UserError(
                f"--num_samples {count} is all samples of {images.name}, so that the subsets of "
                "all --seeds are the same: give fewer, or one seed."
            )


def _rows(images, extractor, names):
    """{output: [N, D]} of the features, and of what else the metrics read; the rest is large."""
    wanted = {"features", *(METRICS[name].output for name in names)}
    found = features_of(images, extractor)
    return {output: rows for output, rows in found.items() if output in wanted}


def _chosen(request, sets, reference, extractor):
    """(names of the metrics of all sets, {what is left out: why})."""
    given = (reference, extractor, request.options, request.num_samples)
    names, left_out = chosen(request.metrics, sets[0], *given)
    for images in sets[1:]:
        chosen(names, images, *given)
    return names, left_out


def _head(sets, reference, extractor):
    """Lines that say what is measured."""
    yield from (f"samples    {_about(images, len(images), images.shape)}" for images in sets)
    if reference is not None:
        real = reference.images
        count, shape = (None, None) if real is None else (len(real), real.shape)
        yield f"reference  {_about(reference, count, shape)}"
    yield f"features   {extractor}, weights sha256 {extractor.digest[:16]}"
    for images in filter(None, (*sets, reference and reference.images)):
        yield from images.notes
        if images.lossy:
            yield (
                f"Warning: {images.lossy} of {len(images)} images of {images.name} are in files "
                "that lose detail, such as JPEG, which moves all metrics."
            )
    if reference is not None and reference.digest in {images.digest for images in sets}:
        yield "Warning: the samples are the reference's own images."


def _repeated(request, sets):
    """A line about what the values are the mean of, if of several sets."""
    if request.num_samples is not None:
        what = f"random subsets of {request.num_samples} of {len(sets[0])} samples"
        seeds = ", ".join(map(str, request.seeds))
        of_each = f" of each of {len(sets)} sets" if len(sets) > 1 else ""
        yield f"Over {what}{of_each}, by seeds {seeds}:"
    elif len(sets) > 1:
        yield f"Over {len(sets)} sets of {len(sets[0])} samples:"


def _left_out(reasons):
    """Lines about {name: why}, one for each reason."""
    names = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return [f"Left out: {', '.join(each)}, as {why}." for why, each in names.items()]


def _about(given, count, shape):
    parts = [] if count is None else [f"{count} images of {'x'.join(map(str, shape))}"]
    return f"{given.name}: {', '.join([*parts, f'sha256 {given.digest[:16]}'])}"


def _measured(request, sets, rows, real, names):
    """A Repeat of each set, or of each subset of each."""
    repeats, radii = [], {}
    for images, features in zip(sets, rows, strict=True):
        sides = Sides(features, images.labels, real, request.options, radii)
        for seed in [None] if request.num_samples is None else request.seeds:
            some = sides
            if seed is not None and request.num_samples < len(images):
                some = sides.take(subset(len(images), request.num_samples, seed))
            repeats.append(report.Repeat(images.name, images.digest, seed, values_of(some, names)))
    return repeats


def subset(count, size, seed):
    """Numbers [size] of a random subset of `count` samples, in order; those that EDM2 takes."""
    return np.sort(np.random.RandomState(seed).choice(count, size, replace=False))


def make_reference(request, out):
    """Writes a reference file, in the layout of OpenAI's evaluator where the features are its own.

    Args:
      request: a Request with one set of images, of samples or a reference.
      out: path of the file, which must not exist.

    Raises:
      UserError: for images without which there is no such file, and a file that is there.
    """
    path = files.parse_path(out, "--make_reference")
    if path.suffix != ".npz":
        raise UserError(f"--make_reference {out} does not end in .npz: give a file such as x.npz.")
    if files.exists(path):
        raise UserError(f"--make_reference {out} is there already: give another name.")
    text = request.reference or request.samples[0]
    images = open_images(text, split=request.split, image_size=request.image_size, fit=request.fit)
    extractor = open_extractor(request.features, request.weights, batch_size=request.batch_size)
    extractor.check(images.shape)
    _say(f"images    {_about(images, len(images), images.shape)}", f"features  {extractor}")
    write_reference(path, images, extractor)
    _say(f"Wrote {out}.")
