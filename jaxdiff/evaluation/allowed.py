"""Which metrics mean something for sets of images and features; known before any are computed."""

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.evaluation.metrics import frechet, neighbours
from jaxdiff.evaluation.references import INCEPTION, key_of
from jaxdiff.evaluation.table import DEFAULT, METRICS, checked

SPLITS = 10  # of an Inception score


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
    if metrics is None:  # those of these features; fd would be the same number as fid
        asked = [name for name in asked if not _unfit(name, extractor)]
        asked = [name for name in asked if name != "fd" or "fid" not in asked]
    given = (samples, count, reference, extractor, options)
    obstacles = {name: found for name in asked if (found := _obstacle(name, *given))}
    if metrics is not None and obstacles:
        name, (why, advice) = next(iter(obstacles.items()))
        raise UserError(f"The metric {name} cannot be measured, as {why}: {advice}.")
    names = [name for name in asked if name not in obstacles]
    return tuple(names), {name: why for name, (why, _) in obstacles.items()}


def _check_sets(samples, count, reference, extractor):
    """Raises UserError for images that no metric can be measured on."""
    if count < 2:
        raise UserError(f"The number of samples of {samples.name} is {count}: give at least 2.")
    samples.check_finite()
    extractor.check(samples.shape)
    real = reference and reference.images
    if real is None:
        return
    real.check_finite()
    if tuple(real.shape[:2]) != tuple(samples.shape[:2]):
        height, width = samples.shape[:2]
        advice = "give a reference of the samples' size"
        if height == width:
            advice += f", or --image_size {height}, with --fit pad if the model's data were padded"
        raise UserError(
            f"{samples.name} has images of {height}x{width} pixels, and the reference {real.name} "
            f"of {real.shape[0]}x{real.shape[1]}: {advice}."
        )
    extractor.check(real.shape)


def _unfit(name, extractor):
    """(why an extractor has not what a metric needs, what to do); None: it has."""
    output = METRICS[name].output
    if output not in extractor.outputs:
        return f"{extractor} has no {output}", "use --features inception, or leave it out"
    if name == "fid" and key_of(extractor) != INCEPTION:
        why = f"FID has the features of {INCEPTION}, and these are {extractor}"
        return why, "ask for fd, the same distance of any features"
    return None


def _obstacle(name, samples, count, reference, extractor, options):
    """(why a metric would mean nothing, what to do); None: it means something."""
    if unfit := _unfit(name, extractor):
        return unfit
    metric, labels = METRICS[name], samples.labels
    if metric.labels and labels is None:
        return f"{samples.name} has no labels", "give samples with labels, or leave it out"
    if metric.labels and len(np.unique(labels)) == len(labels):
        return f"no two of the {len(labels)} samples have one label", "give more samples"
    few = {"fd_infinity": frechet.rows_needed(infinity=True), "is": SPLITS}.get(name, 0)
    if count < few:
        return f"it needs {few} samples and there are {count}", f"give {few} or more"
    if metric.compares:
        return _obstacle_of_reference(name, metric, count, reference, extractor, options)
    return None


def _obstacle_of_reference(name, metric, count, reference, extractor, options):
    if reference is None:
        return "there is no reference", "give a --reference, or leave it out"
    images, leave = reference.images, "give another --reference, or leave it out"
    if metric.moments:
        if given := reference.moments_of(extractor):
            why = f"{reference.name} has moments of {extractor}, but not of its {metric.output}"
            return None if metric.output in given else (why, leave)
        if images is None:
            held = " and ".join(reference.moments)
            return (
                f"{reference.name} has no images, and moments of {held}, not of {extractor}",
                leave,
            )
        if len(images) < 2:
            return f"{reference.name} has only one image", "give a reference of more"
        return None
    if images is None:
        return f"{reference.name} has no images", leave
    sides = {"samples": count, "reference images": min(len(images), options.reference_images)}
    what, fewest = min(sides.items(), key=lambda side: side[1])
    if metric.k and fewest < neighbours.rows_needed(metric.k):
        why = f"its neighbourhood is of {metric.k} others and there are {fewest} {what}"
        return why, f"give {metric.k + 1} or more"
    if name == "kid" and fewest < options.kid_size:
        why = f"its subsets of {options.kid_size} are larger than the {fewest} {what}"
        return why, "give more images, or take smaller subsets (kid_size)"
    return None
