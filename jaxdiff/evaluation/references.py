"""What samples are compared with: real images, moments of their features, or both.

OpenAI's npz files (Dhariwal & Nichol 2021, arXiv:2105.05233) hold 10,000 images `arr_0`, and of the
whole training set `mu`, `sigma` of Inception's pooled features and `mu_s`, `sigma_s` of the spatial
ones. EDM's (Karras et al. 2022, arXiv:2206.00364) hold `mu` and `sigma` alone, and EDM2's pickles
(Karras et al. 2024, arXiv:2312.02696) {"num_images", "fid": {"mu", "sigma"}, "fd_dinov2": ...}.
Files that `pytorch-fid --save-stats` writes look like EDM's, but are of another front end: their
distances to other samples mean nothing here.
"""

import dataclasses

import numpy as np

from jaxdiff import arrays, claims, files
from jaxdiff.errors import UserError
from jaxdiff.evaluation import kept
from jaxdiff.evaluation.images import ImageSet, open_images, refuse_split
from jaxdiff.evaluation.metrics.frechet import Moments
from jaxdiff.tensor_files import numpy_pickle

INCEPTION = "inception-2015, tf1-bilinear"
# Extractors of the features of EDM2's metrics.
EDM2 = {"fid": INCEPTION, "fd_dinov2": "dinov2-vitl14, edm2"}
NAMES = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # in OpenAI's files
OTHERS = ("mu_features", "sigma_features")  # names of those of other extractors
MADE_OF, COUNT = "features", "num_images"  # what OpenAI's files do not say
CHOSEN = 10_000  # images of a file
PART = 512  # images in memory at once
SYMMETRY = 1e-6  # of the largest entry


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Real images, or what is known of them.

    Attributes:
      name: as the user gave it.
      digest: SHA-256 (hexadecimal) of the contents.
      images: an ImageSet, or None; where there are moments, some of the images that they are of.
      moments: {extractor, see `key_of`: {output: Moments}}, as the file has them.
      weights: {extractor: digest of its weights}, where the file says it.
    """

    name: str
    digest: str
    images: ImageSet | None
    moments: dict[str, dict[str, Moments]] = dataclasses.field(default_factory=dict)
    weights: dict[str, str] = dataclasses.field(default_factory=dict)

    def moments_of(self, extractor):
        """{output: Moments} that the file has of an extractor's features; empty if it has none.

        Raises:
          UserError: for moments of features by other weights, or of another number of features.
        """
        key = key_of(extractor)
        found, digest = self.moments.get(key, {}), self.weights.get(key, extractor.digest)
        if digest != extractor.digest:
            raise UserError(
                f"{self.name} holds moments of {key} by the weights {digest[:8]}, and these are "
                f"{extractor.digest[:8]}: give those, or make the reference with these."
            )
        for output, moments in found.items():
            if len(moments.mean) != extractor.outputs.get(output):
                raise UserError(
                    f"{self.name} holds moments of {len(moments.mean)} {output} of {key}, which "
                    f"makes {extractor.outputs.get(output)}: give another reference."
                )
        return found

    def has_weights_of(self, extractor):
        """Whether the file says which weights its moments of an extractor's features are of."""
        return key_of(extractor) in self.weights


def key_of(extractor):
    """What identifies an extractor's features, but for its weights."""
    return ", ".join(filter(None, (extractor.name, extractor.front_end)))


def open_reference(text, *, split=None, image_size=None, fit="crop"):
    """The Reference at a path, local or in a bucket.

    Args:
      text: an npz file of OpenAI's, EDM's or `write_reference`; a pickle of EDM2's; or any images,
        as `jaxdiff.evaluation.images.open_images` opens them.
      split, image_size, fit: of the images, as there.

    Raises:
      UserError: for a file that is corrupt or none of these.
    """
    path = files.parse_path(text, "The path of the reference")
    if files.exists(path) and not files.is_folder(path):
        with files.opened(path) as file:
            start = file.read(2)
        if start[:1] == b"\x80":  # the first byte of pickles
            refuse_split(text, split)
            return _pickled(text, path)
        if start == b"PK" and {"mu", OTHERS[0]} & (names := {*arrays.open_npz(path)}):
            refuse_split(text, split)
            return _npz(text, path, names, image_size)
    images = open_images(text, split=split, image_size=image_size, fit=fit)
    return Reference(name=images.name, digest=images.digest, images=images)


def _npz(text, path, names, image_size):
    """A Reference with the moments of an npz file, and its images if it has some."""
    images = open_images(text) if "arr_0" in names else None
    if images and image_size not in (None, *images.shape[:2]):
        raise UserError(
            f"--image_size is {image_size}, but {text} holds moments of images of "
            f"{images.shape[0]}x{images.shape[1]} pixels: leave it out, or give another reference."
        )
    wanted = {name for pair in (*NAMES.values(), OTHERS) for name in pair} | {MADE_OF, COUNT}
    held = arrays.load_npz(path, sorted(wanted & names))
    count, made_of = _count(path, held.get(COUNT)), held.get(MADE_OF)
    if made_of is None or made_of.shape != (3,) or made_of.dtype.kind != "U":
        if "mu" not in names:
            raise UserError(
                f"{path} does not say what its moments are of, as its array {MADE_OF} is "
                f"{_described(made_of)}: make it again by --make_reference."
            )
        made_of = (*INCEPTION.split(", "), "")  # others may call something else so
    name, front_end, weights = map(str, made_of)
    key = ", ".join(filter(None, (name, front_end)))
    pairs = NAMES if "mu" in names else {"features": OTHERS}
    found = {
        output: _moments(path, [held.get(name) for name in pair], pair, count)
        for output, pair in pairs.items()
        if pair[0] in held
    }
    return Reference(
        name=str(text),
        digest=images.digest if images else files.sha256(path),
        images=images,
        moments={key: found},
        weights={key: weights} if weights else {},
    )


def _pickled(text, path):
    """The Reference of an EDM2 pickle."""
    held = numpy_pickle.read(path)
    count, found = _count(path, held.get(COUNT)), {}
    for metric, extractor in EDM2.items():
        if isinstance(pair := held.get(metric), dict):
            names = (f"{metric}/mu", f"{metric}/sigma")
            values = [pair.get("mu"), pair.get("sigma")]
            found[extractor] = {"features": _moments(path, values, names, count)}
    if not found:
        raise UserError(
            f"{path} holds {', '.join(held) or 'nothing'}, and neither of {', '.join(EDM2)}: give "
            "another reference."
        )
    return Reference(name=str(text), digest=files.sha256(path), images=None, moments=found)


def _count(path, value):
    """How many images a file says that its moments are of; None where it does not."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.shape or array.dtype.kind not in "iu" or array < 2:
        shown = str(value) if isinstance(value, int) else _described(value)
        raise UserError(
            f"{path}: its {COUNT} is {shown}, not a whole number of 2 at least: download it again."
        )
    return int(array)


def _moments(path, values, names, count):
    """The Moments of a mean and a covariance, checked."""
    shapes = [getattr(each, "shape", None) for each in values]
    kinds = [getattr(each, "dtype", np.dtype(object)).kind for each in values]
    size = shapes[0][0] if shapes[0] else 0
    flaw = None
    if shapes != [(size,), (size, size)] or kinds != ["f", "f"] or not size:
        flaw = f"are {_described(values[0])} and {_described(values[1])}, not [D] and [D, D]"
    elif not all(np.isfinite(each).all() for each in values):
        flaw = "are not all finite"
    else:
        mean, covariance = (np.asarray(each, np.float64) for each in values)
        if np.abs(covariance - covariance.T).max() > SYMMETRY * np.abs(covariance).max():
            flaw = "are no mean and covariance, which is symmetric"
        elif covariance.diagonal().min() < 0:
            flaw = "are no mean and covariance, whose diagonal is not negative"
    if flaw:
        raise UserError(f"{path}: its arrays {' and '.join(names)} {flaw}: download it again.")
    return Moments(mean, covariance, count)


def _described(value):
    if value is None:
        return "missing"
    kind = getattr(value, "dtype", type(value).__name__)
    return f"{kind} {list(getattr(value, 'shape', ()))}"


def write_reference(path, images, extractor, count_of_images=CHOSEN, quiet=False):
    """Writes a reference file: some of the images, and the moments of the features of all.

    OpenAI's evaluator reads it where the extractor is Inception with its own front end: `arr_0`
    uint8 [n, H, W, 3] (grey repeated three times), `mu` and `mu_s` [D], `sigma` and `sigma_s`
    [D, D] float64. The moments of other features are called `mu_features` and `sigma_features`, so
    that nothing takes them for Inception's. `features` holds the network's name, its front end and
    its weights' SHA-256, `num_images` how many images the moments are of, and `arr_1` the classes
    of those in `arr_0`, if they have some.

    Args:
      path: of the npz file.
      images: an ImageSet of all real images, two at least.
      extractor: of the features.
      count_of_images: n, how many are in `arr_0`, spread evenly over the set; all where it has
        fewer.
      quiet: whether to show no progress.

    Raises:
      UserError: if it cannot be written or is something else, or the images cannot be read.
    """
    images.check_finite()
    if len(images) < 2:
        raise UserError(f"{images.name} holds one image: give two at least.")
    path = files.parse_path(path, "The path of the reference")
    made_of = (extractor.name, extractor.front_end, extractor.digest)
    settings = {"images": images.digest, "extractor": list(made_of), "chosen": count_of_images}
    with claims.claimed_file(path, settings):
        whole = Reference(name=images.name, digest=images.digest, images=images)
        found = kept.statistics_of(whole, extractor, rows=count_of_images, quiet=quiet)
        is_openai = key_of(extractor) == INCEPTION
        content = {"arr_0": _stream(found.images, 3 if is_openai else images.shape[2])}
        if found.labels is not None:
            content["arr_1"] = found.labels.astype(np.int64)
        for output, names in (NAMES if is_openai else {"features": OTHERS}).items():
            moments = found.moments[output]
            content |= dict(zip(names, (moments.mean, moments.covariance), strict=True))
        content |= {MADE_OF: np.array(made_of), COUNT: np.int64(len(images))}
        claims.save(path, settings, content)


def _stream(images, channels):
    """The images, of which a part is in memory at a time; grey ones repeated as these channels."""
    count, shape = len(images), (*images.shape[:2], channels)

    def parts():
        for start in range(0, count, PART):
            rows = images.fetch(np.arange(start, min(start + PART, count)))
            yield np.broadcast_to(rows, (len(rows), *shape))

    return arrays.Stream((count, *shape), np.uint8, parts())
