"""Metrics of a set of samples: from images and a reference to Values, or a reason why not.

    found = jaxdiff.evaluate("samples/x", "data/fashion", features="efficientnet-lite0")
    found["fd"].value, found["fd"].samples

Whatever is compared with a reference depends on the numbers of images of both sides, which each
Value holds. A value that would mean nothing is refused before any features are computed.
"""

import dataclasses

from jaxdiff.config.fields import checked_value
from jaxdiff.errors import UserError
from jaxdiff.evaluation.allowed import chosen
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.images import ImageSet, of_arrays, open_images
from jaxdiff.evaluation.kept import features_of, statistics_of
from jaxdiff.evaluation.references import Reference, open_reference
from jaxdiff.evaluation.table import METRICS, RANGES
from jaxdiff.evaluation.values import OPTIONS, Options, Sides, Value, values_of
from jaxdiff.sampling.samples import Samples
from jaxdiff.sampling.settings import label_of

__all__ = ["METRICS", "OPTIONS", "Options", "Sides", "Value", "evaluate", "measure"]


def evaluate(
    samples,
    reference=None,
    metrics=None,
    *,
    features="inception",
    weights=None,
    split=None,
    image_size=None,
    fit="crop",
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
      image_size: height and width that images of another size are brought to; None: they must
        have one.
      fit: how: "crop": scaled and cropped; "pad": framed with black, as data.fit of the model.
      reference_images: most images of the reference for neighbours and KID.
      kid_subsets, kid_size: number and size of KID's subsets.

    Raises:
      UserError: for samples, references, weights or metrics that cannot be used.
    """
    given = (reference_images, kid_subsets, kid_size)
    named = zip(RANGES.items(), given, strict=True)
    options = Options(*(checked_value(name, value, hint) for (name, hint), value in named))
    samples = as_images(samples, image_size=image_size, fit=fit)
    if reference is not None and not isinstance(reference, Reference):
        if isinstance(reference, str) or hasattr(reference, "__fspath__"):
            reference = open_reference(reference, split=split, image_size=image_size, fit=fit)
        else:
            images = as_images(reference, name="reference")
            reference = Reference(name=images.name, digest=images.digest, images=images)
    extractor = open_extractor(features, weights)
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    names, _ = chosen(names, samples, reference, extractor, options)
    values = measure(samples, reference, extractor, names, options=options)
    return {each.metric: each for each in values}


def as_images(given, name="samples", **options):
    """The ImageSet of a path, of Samples, or of an array of images."""
    if isinstance(given, ImageSet):
        return given
    if isinstance(given, str) or hasattr(given, "__fspath__"):
        return open_images(given, **options)
    if hasattr(given, "__array__"):  # NumPy's, JAX's or another's
        return of_arrays(given, name=name)
    if not isinstance(given, Samples):
        raise UserError(
            f"{name} is a {type(given).__name__}: give a path, uint8 images [N, H, W, C] of NumPy, "
            "or jaxdiff.Samples."
        )
    labels = given.cond.get(label_of(given.cond))
    images = of_arrays(given.images, labels, name=name, class_names=given.class_names)
    return dataclasses.replace(images, non_finite=tuple(given.non_finite.tolist()))


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
