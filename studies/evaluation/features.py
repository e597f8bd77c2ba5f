"""Features of the studies' images, computed once and kept, and all metrics of two sets of them."""

import numpy as np

from studies.evaluation.expected import METRICS

NETWORK = "efficientnet-lite0"


def kept(folder, name, images, extractor):
    """Features of images, float32 [N, D]; kept in folder/NAME.npz, while the images stay the same.

    Args:
      folder: epath.Path.
      name: of the images.
      images: uint8 [N, H, W, C].
      extractor: an Extractor.
    """
    from jaxdiff import arrays, files

    path, own = folder / f"{name}.npz", f"{extractor.key} {arrays.checksum(images)}"
    if files.exists(path):
        stored = arrays.load_npz(path)
        if str(stored["of"]) == own:
            return stored["features"]
    print(f"{name}: {len(images):,} images", flush=True)
    fetched = extractor.run(lambda rows: images[rows], len(images))
    features = np.concatenate([part["features"] for part in fetched])
    arrays.save_npz(path, {"features": features, "of": np.array(own)})
    return features


def measured(real, fake, labels):
    """{metric: value} of METRICS.

    Precision and recall have k 3 and closed balls, density and coverage k 5. KID is the mean of 100
    subsets of half of the smaller set. The Vendi score is that of the whole set, MSS the mean
    over the classes.

    Args:
      real: features of the reference, [M, D].
      fake: features of the set, [N, D].
      labels: of the set, int [N].
    """
    from jaxdiff.evaluation.metrics import diversity, frechet, kid, neighbours

    size = min(len(real), len(fake)) // 2
    precision, recall = neighbours.precision_recall(real, fake)
    density, coverage = neighbours.density_coverage(real, fake)
    values = (
        frechet.distance(frechet.Moments.of(real), frechet.Moments.of(fake)),
        kid.kid(real, fake, size=size)[0],
        precision,
        recall,
        density,
        coverage,
        diversity.vendi(fake),
        diversity.mss(fake, labels),
    )
    return dict(zip(METRICS, map(float, values), strict=True))


def mean(several):
    """{metric: mean} of such dicts."""
    return {metric: float(np.mean([each[metric] for each in several])) for metric in METRICS}
