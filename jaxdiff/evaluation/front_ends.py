"""What turns images into the inputs of feature networks: a named resize, then a range.

Every resize is Y = A X B^T for each channel X [H, W], with matrices A [h, H] and B [w, W] that are
built in NumPy float64: the same on every backend. Libraries differ in these matrices, and so do the
features, which is why a front end is part of a metric's name.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, in [0, 1]


def _taps(indices, weights, size):
    """Matrix [to, size] of weights [to, taps] at pixels [to, taps], or the border's beyond it."""
    matrix = np.zeros((len(indices), size))
    rows = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape)
    np.add.at(matrix, (rows, np.clip(indices, 0, size - 1)), weights)
    return matrix


def _cubic(x, a):
    """Keys's cubic kernel (1981), of parameter a."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x):
    return np.maximum(1 - np.abs(x), 0)


def _half_pixel(size, to):
    """Centres [to, 1] of the output's pixels, in coordinates of the input's."""
    return ((np.arange(to) + 0.5) * size / to - 0.5)[:, None]


def tf1_bilinear(size, to):
    """TensorFlow 1: source i size/to in float32, no half pixel, no antialias."""
    source = np.arange(to, dtype=np.float32) * (np.float32(size) / np.float32(to))
    low = np.floor(source)
    share = (source - low).astype(np.float64)[:, None]
    indices = low.astype(int)[:, None] + np.arange(2)
    return _taps(indices, np.concatenate([1 - share, share], 1), size)


def torch_bilinear(size, to):
    """torch.nn.functional.interpolate: half pixels, no antialias, borders repeated."""
    source = _half_pixel(size, to)
    indices = np.floor(source).astype(int) + np.arange(2)
    return _taps(indices, _triangle(source - indices), size)


def torch_bicubic(size, to, offset=0.0):
    """torch.nn.functional.interpolate: cubic of a = -0.75, no antialias, borders repeated.

    Args:
      size, to: of the input and the output.
      offset: added to `to` where coordinates are computed, so that they are not quite those of the
        sizes: 0.1 in DINOv2's position embeddings.
    """
    source = ((np.arange(to) + 0.5) * size / (to + offset) - 0.5)[:, None]
    indices = np.floor(source).astype(int) + np.arange(-1, 3)
    return _taps(indices, _cubic(source - indices, -0.75), size)


def _antialiased(kernel, support):
    def matrix(size, to, offset=0.0):
        step = size / (to + offset)
        scale, centre = max(step, 1.0), ((np.arange(to) + 0.5) * step)[:, None]
        first = np.maximum((centre - support * scale + 0.5).astype(int), 0)
        end = np.minimum((centre + support * scale + 0.5).astype(int), size)
        pixels = np.arange(size)
        weights = kernel((pixels + 0.5 - centre) / scale) * ((first <= pixels) & (pixels < end))
        return weights / weights.sum(1, keepdims=True)

    return matrix


# PIL's, and PyTorch's with antialias=True: the filter is as wide as the stride where images shrink,
# cut at the borders and normalised to sum 1.
antialiased_bilinear = _antialiased(_triangle, 1)
antialiased_bicubic = _antialiased(lambda x: _cubic(x, -0.5), 2)


@dataclasses.dataclass(frozen=True)
class Resize:
    """A resize of images.

    Attributes:
      matrix: (size, to) -> [to, size] float64.
      rounded: as PIL resizes uint8: each of the two passes, the horizontal one first, is rounded
        and clipped to [0, 255], and matrices are rounded to multiples of 2^-22. (Since Pillow 13
        the vertical one is first where images become less high and little less wide.)
    """

    matrix: Callable[[int, int], np.ndarray]
    rounded: bool = False

    def __call__(self, images, height, width):
        """Images [B, H, W, C], as float32 [B, height, width, C]; on the device, and traceable."""
        return self._passes(jnp.asarray(images, jnp.float32), height, width, jnp)

    def exact(self, images, height, width):
        """The same in NumPy float64."""
        return self._passes(np.asarray(images, np.float64), height, width, np)

    def _passes(self, images, height, width, xp):
        highest = {} if xp is np else {"precision": jax.lax.Precision.HIGHEST}
        _, rows, columns, _ = images.shape
        for equation, size, to in (
            ("xw,bhwc->bhxc", columns, width),
            ("yh,bhwc->bywc", rows, height),
        ):

            def product(matrix, equation=equation, images=images):
                return xp.einsum(equation, xp.asarray(matrix, images.dtype), images, **highest)

            matrix = self.matrix(size, to)
            images = _rounded(matrix, product, xp) if self.rounded else product(matrix)
        return images


def _rounded(matrix, product, xp):
    """floor(product + 1/2) in [0, 255], as exact in float32 as PIL's integers.

    Products of the multiples of 2^-11 that are nearest to the matrix's numbers are exact, and so
    are those of what is left, and the sum of their fractions.
    """
    coarse = np.rint(matrix * 2**11) / 2**11
    sums = product(coarse) + 0.5
    whole = xp.floor(sums)
    left = product(np.rint((matrix - coarse) * 2**22) / 2**22)
    return xp.clip(whole + xp.floor(sums - whole + left), 0, 255)


RESIZES = {
    "tf1_bilinear": Resize(tf1_bilinear),
    "torch_bilinear": Resize(torch_bilinear),
    "torch_bicubic": Resize(torch_bicubic),
    "torch_bilinear_antialias": Resize(antialiased_bilinear),
    "torch_bicubic_antialias": Resize(antialiased_bicubic),
    "pil_bicubic_float": Resize(antialiased_bicubic),
    "pil_bilinear_uint8": Resize(antialiased_bilinear, rounded=True),
    "pil_bicubic_uint8": Resize(antialiased_bicubic, rounded=True),
}


@dataclasses.dataclass(frozen=True)
class FrontEnd:
    """What a network's input is of images: y = (resized - mean) / scale.

    Attributes:
      name: such as "tf1-bilinear".
      resize: a Resize.
      size: pixels of the input's sides; of its shorter side, if `keeps_aspect`.
      mean, scale: in grey levels 0 .. 255, one number or one for each of R, G, B.
      clips: whether resized values are clipped to [0, 255].
      keeps_aspect: whether images that are not square stay so.
    """

    name: str
    resize: Resize
    size: int
    mean: float | tuple[float, ...]
    scale: float | tuple[float, ...]
    clips: bool = False
    keeps_aspect: bool = False

    def sides(self, height, width):
        """(height, width) of the input, of images of this height and width."""
        if not self.keeps_aspect:
            return self.size, self.size
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def __call__(self, images):
        """The network's input float32 [B, h, w, 3], of uint8 images [B, H, W, 1 or 3]."""
        images = self.resize(rgb(images), *self.sides(*images.shape[1:3]))
        if self.clips:
            images = jnp.clip(images, 0, 255)
        return (images - np.float32(self.mean)) / np.float32(self.scale)


def rgb(images):
    """Images [B, H, W, 3]: those of one channel have it three times."""
    return images if images.shape[-1] == 3 else jnp.repeat(images, 3, axis=-1)


def _imagenet(name, resize, size, **more):
    mean, scale = (tuple(255 * each for each in values) for values in IMAGENET)
    return FrontEnd(name, RESIZES[resize], size, mean, scale, **more)


# Of each network, its own first.
INCEPTION = (
    # ADM's, EDM's and EDM2's (a graph of TensorFlow 1).
    FrontEnd("tf1-bilinear", RESIZES["tf1_bilinear"], 299, 128.0, 128.0),
    FrontEnd("pytorch-fid", RESIZES["torch_bilinear"], 299, 127.5, 127.5),
    FrontEnd("clean-fid", RESIZES["pil_bicubic_float"], 299, 128.0, 128.0, clips=True),
)
DINOV2 = (
    # EDM2's; values of sharp edges leave [0, 255].
    _imagenet("edm2", "torch_bicubic_antialias", 224),
    _imagenet("dgm-eval", "pil_bicubic_uint8", 224),
)
SSCD = (_imagenet("288", "pil_bilinear_uint8", 288, keeps_aspect=True),)
EFFICIENTNET_LITE = (
    FrontEnd("bicubic", RESIZES["torch_bicubic_antialias"], 224, 127.0, 128.0, clips=True),
)
