"""Samples beside the real images that are nearest to them: has a model memorised its data?

The distance is Euclidean, between features. It is small for any plain image, so that the distances
of real images to each other are what it compares with: where many samples are nearer to a real
image than real images are to one another, the model repeats what it was trained on. Only images
that are searched are found: --reference_images of the whole training set searches all of it.

nearest.png    a row for each sample: itself, then its nearest real images, with their distances
nearest.json   the same in numbers
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import claims, files
from jaxdiff.errors import UserError
from jaxdiff.sampling import image_grid

SHOWN = 5  # real images of a row
MOST = 100  # rows of the picture
BLOCK = 1000  # samples whose distances are computed at once
SPARE = 5  # more candidates in float32 than neighbours


@dataclasses.dataclass(frozen=True)
class Found:
    """The samples whose nearest real images are nearest, and those.

    Attributes:
      numbers: int [N] of the samples, the nearest first.
      neighbours: int [N, K], numbers of real images in the reference, the nearest first.
      distances: float64 [N, K], of the features.
      of_samples: number of samples that were searched for.
      among: number of real images that were searched.
      median_of_samples: of all samples' distances to their nearest real image.
      median_of_real: of real images' distances to the nearest other one.
      share: of all samples that are nearer to a real image than half of the real images are to
        another.
    """

    numbers: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    of_samples: int
    among: int
    median_of_samples: float
    median_of_real: float
    share: float


def check(count, samples, reference, place):
    """Raises UserError where a picture of `count` samples cannot be made or written."""
    if reference.images is None:
        raise UserError(f"--nearest needs real images, and {reference.name} has moments only.")
    if len(reference.images) < 2:
        raise UserError(f"--nearest needs 2 real images, and {reference.name} has one.")
    if count > min(MOST, len(samples)):
        raise UserError(
            f"--nearest {count} is more than {min(MOST, len(samples))}: {samples.name} has "
            f"{len(samples)} samples, and a picture shows at most {MOST}."
        )
    if files.exists(place.path("nearest.json")):
        files.read_json(place.path("nearest.json"), advice="move it away, or give another --out")
    elif files.exists(place.path("nearest.png")):
        raise UserError(
            f"{place.path('nearest.png')} is not of this command, as there is no nearest.json: "
            "move it away, or give another --out."
        )


def search(rows, real, total, count):
    """The Found of samples by their features.

    Args:
      rows: [N, D] float32 features of the samples.
      real: [R, D] of reference images, which are spread evenly over the reference.
      total: number of its images.
      count: how many samples are kept.
    """
    near, distances = nearest(rows, real, min(SHOWN, len(real)))
    # An image's nearest is itself, or a copy of it.
    median = float(np.median(nearest(real, real, 2)[1][:, 1]))
    first = np.argsort(distances[:, 0], kind="stable")[:count]
    return Found(
        numbers=first,
        neighbours=near[first] * total // len(real),
        distances=distances[first],
        of_samples=len(rows),
        among=len(real),
        median_of_samples=float(np.median(distances[:, 0])),
        median_of_real=median,
        share=float((distances[:, 0] < median).mean()),
    )


def nearest(rows, real, k):
    """The k rows of `real` [R, D] that are nearest to each of `rows` [N, D].

    Returns:
      (numbers [N, k] int of rows of `real`, Euclidean distances [N, k] float64), the nearest first.
    """
    # Candidates by products in float32, whose rounding may confuse near ones, then in float64.
    middle = real.mean(0)
    some, size = min(k + SPARE, len(real)), min(BLOCK, len(rows))
    function = partial(jax.jit(_block, static_argnums=2), jnp.asarray(real - middle), k=some)
    numbers, distances = [], []
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        padded = np.resize(block, (size, block.shape[1])) - middle
        candidates = np.asarray(function(padded))[: len(block)]
        found = np.stack([_distances(*each, real) for each in zip(block, candidates, strict=True)])
        order = np.argsort(found, axis=1, kind="stable")[:, :k]
        numbers.append(np.take_along_axis(candidates, order, axis=1))
        distances.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(numbers), np.concatenate(distances)


def _block(real, rows, k):
    # |u - v|^2 = |u|^2 - 2 u.v + |v|^2, of which the first is the same for all v.
    products = jnp.matmul(rows, real.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(2 * products - (real**2).sum(1), k)[1]


def _distances(row, numbers, real):
    return np.linalg.norm(np.float64(real[numbers]) - np.float64(row), axis=1)


def write(found, samples, reference, extractor, place):
    """Writes nearest.png and nearest.json; the first process does.

    Args:
      found: a Found.
      samples: the ImageSet that was searched for.
      reference: the Reference.
      extractor: of the features.
      place: the Place of the results.
    """
    claims.in_first(_write, found, samples, reference, extractor, place)


def _write(found, samples, reference, extractor, place):
    picture = drawn(found, samples.fetch(found.numbers), _fetched(reference.images, found))
    with files.replacing(place.path("nearest.png")) as file:
        picture.save(file, "png")
    values = {
        "samples": samples.name,
        "samples_sha256": samples.digest,
        "reference": reference.name,
        "reference_sha256": reference.digest,
        "features": str(extractor),
        "weights_sha256": extractor.digest,
    }
    for name, value in vars(found).items():
        values[name] = value.tolist() if isinstance(value, np.ndarray) else value
    files.write_json(place.path("nearest.json"), values)


def _fetched(images, found):
    """Real images uint8 [N, K, H, W, C] of a Found."""
    flat = images.fetch(found.neighbours.reshape(-1))
    return flat.reshape(*found.neighbours.shape, *flat.shape[1:])


def drawn(found, samples, real):
    """A PIL image of samples [N, H, W, C] beside real images [N, K, H, W, C]."""
    rows = np.concatenate([_colour(samples)[:, None], _colour(real)], axis=1)
    captions = []
    for number, each in zip(found.numbers, found.distances, strict=True):
        captions += [f"sample {number}", *(f"{distance:.3g}" for distance in each)]
    return image_grid.grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1], captions)


def _colour(images):
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def described(found, place):
    """Lines about a Found."""
    return [
        f"{place.path('nearest.png')} shows the {len(found.numbers)} of {found.of_samples} samples "
        f"that are nearest to one of {found.among} real images.",
        f"Median distance to the nearest real image: {found.median_of_samples:.4g} of samples, "
        f"{found.median_of_real:.4g} of real images; {found.share:.1%} of the samples are nearer "
        "than the latter.",
    ]
