"""InceptionV3 of 2015, whose features FID is defined on.

The network of TensorFlow's graph `inception-2015-12-05` (Szegedy et al. 2015, arXiv:1512.00567),
with the names of its conversion to PyTorch. Unlike torchvision's: averages leave padding out of the
count, the pool branch of the last block is a maximum, and there are 1008 classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.evaluation.networks.units import HIGHEST, BatchNorm, Conv, Linear, Network, max_pool

FEATURES, CLASSES, MAPS = 2048, 1008, 7
SPATIAL = 17 * 17 * MAPS


class Unit(nnx.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs, outputs, size=1, stride=1, padding="SAME"):
        self.conv = Conv(inputs, outputs, size, stride, padding)
        self.bn = BatchNorm(outputs, 1e-3)

    def __call__(self, x):
        """x: [B, H, W, I]. Returns [B, H', W', O]."""
        return jax.nn.relu(self.bn(self.conv(x)))


def average_pool(x):
    """Mean of the up to 3 x 3 pixels around each that are in the image: [B, H, W, C]."""
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    # From NumPy: XLA would take minutes to fold the sums of ones.
    rows, columns = (
        np.minimum(np.arange(n), 1) + np.minimum(np.arange(n)[::-1], 1) + 1 for n in x.shape[1:3]
    )
    return sums * (1 / np.float32(rows[:, None] * columns))[:, :, None]


def chain(block, name, inputs, *units):
    """Adds Units NAME_1, NAME_2 and so on to a block; each is (outputs, size, stride, padding)."""
    for n, unit in enumerate(units, 1):
        setattr(block, f"{name}_{n}", Unit(inputs, *unit))
        inputs = unit[0]


def along(block, name, x, count):
    """What a chain makes of x."""
    for n in range(1, count + 1):
        x = getattr(block, f"{name}_{n}")(x)
    return x


class BlockA(nnx.Module):
    """Mixed_5b, 5c and 5d: at 35 x 35."""

    def __init__(self, inputs, pooled):
        self.branch1x1 = Unit(inputs, 64)
        chain(self, "branch5x5", inputs, (48,), (64, 5))
        chain(self, "branch3x3dbl", inputs, (64,), (96, 3), (96, 3))
        self.branch_pool = Unit(inputs, pooled)

    def __call__(self, x):
        """x: [B, 35, 35, I]. Returns [B, 35, 35, 224 + pooled]."""
        return concatenated(
            self.branch1x1(x),
            along(self, "branch5x5", x, 2),
            along(self, "branch3x3dbl", x, 3),
            self.branch_pool(average_pool(x)),
        )


class BlockB(nnx.Module):
    """Mixed_6a: from 35 x 35 to 17 x 17."""

    def __init__(self, inputs):
        self.branch3x3 = Unit(inputs, 384, 3, 2, "VALID")
        chain(self, "branch3x3dbl", inputs, (64,), (96, 3), (96, 3, 2, "VALID"))

    def __call__(self, x):
        """x: [B, 35, 35, 288]. Returns [B, 17, 17, 768]."""
        return concatenated(self.branch3x3(x), along(self, "branch3x3dbl", x, 3), max_pool(x))


class BlockC(nnx.Module):
    """Mixed_6b to 6e: at 17 x 17, of convolutions 1 x 7 and 7 x 1."""

    def __init__(self, c):
        self.branch1x1 = Unit(768, 192)
        chain(self, "branch7x7", 768, (c,), (c, (1, 7)), (192, (7, 1)))
        chain(self, "branch7x7dbl", 768, (c,), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7)))
        self.branch_pool = Unit(768, 192)

    def __call__(self, x):
        """x: [B, 17, 17, 768]. Returns the same shape."""
        return concatenated(
            self.branch1x1(x),
            along(self, "branch7x7", x, 3),
            along(self, "branch7x7dbl", x, 5),
            self.branch_pool(average_pool(x)),
        )


class BlockD(nnx.Module):
    """Mixed_7a: from 17 x 17 to 8 x 8."""

    def __init__(self):
        chain(self, "branch3x3", 768, (192,), (320, 3, 2, "VALID"))
        chain(self, "branch7x7x3", 768, (192,), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "VALID"))

    def __call__(self, x):
        """x: [B, 17, 17, 768]. Returns [B, 8, 8, 1280]."""
        return concatenated(
            along(self, "branch3x3", x, 2), along(self, "branch7x7x3", x, 4), max_pool(x)
        )


class BlockE(nnx.Module):
    """Mixed_7b and 7c: at 8 x 8, whose branches part in two."""

    def __init__(self, inputs, pool):
        self.pool = pool
        self.branch1x1 = Unit(inputs, 320)
        self.branch3x3_1 = Unit(inputs, 384)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, (1, 3)), Unit(384, 384, (3, 1))
        chain(self, "branch3x3dbl", inputs, (448,), (384, 3))
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, (1, 3)), Unit(384, 384, (3, 1))
        self.branch_pool = Unit(inputs, 192)

    def __call__(self, x):
        """x: [B, 8, 8, I]. Returns [B, 8, 8, 2048]."""
        once, twice = self.branch3x3_1(x), along(self, "branch3x3dbl", x, 2)
        pooled = average_pool(x) if self.pool == "average" else max_pool(x, stride=1, padding=1)
        return concatenated(
            self.branch1x1(x),
            *(self.branch3x3_2a(once), self.branch3x3_2b(once)),
            *(self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)),
            self.branch_pool(pooled),
        )


def concatenated(*branches):
    """Branches [B, H, W, C_i], side by side."""
    return jnp.concatenate(branches, axis=-1)


class InceptionV3(nnx.Module):
    """Of images [B, 299, 299, 3] in [-1, 1]: features, a spatial map, and class scores."""

    def __init__(self):
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2, "VALID")
        self.Conv2d_2a_3x3 = Unit(32, 32, 3, 1, "VALID")
        self.Conv2d_2b_3x3 = Unit(32, 64, 3)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3, 1, "VALID")
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = (
            BlockA(192, 32),
            BlockA(256, 64),
            BlockA(288, 64),
        )
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(128), BlockC(160)
        self.Mixed_6d, self.Mixed_6e = BlockC(160), BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, "average"), BlockE(2048, "maximum")
        self.fc = Linear(FEATURES, CLASSES)

    def layers(self, x):
        """What is inside, by names: the two maxima, the blocks, and the pooled features.

        Returns:
          {"pool_1": [B, 73, 73, 64], "pool_2": [B, 35, 35, 192], "Mixed_5b": ..., "spatial":
          [B, 17, 17, 7], "features": [B, 2048]}.
        """
        found = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = found["pool_1"] = max_pool(x)
        x = found["pool_2"] = max_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in BLOCKS:
            block = getattr(self, name)
            if name == "Mixed_6d":
                found["spatial"] = block.branch1x1(x)[..., :MAPS]
            x = found[name] = block(x)
        found["features"] = x.mean((1, 2))
        return found

    def __call__(self, x):
        """What metrics are made of.

        Returns:
          {"features": [B, 2048], of FID; "spatial": [B, 2023], 7 maps of 17 x 17 by row, column and
          channel, of sFID; "logits": [B, 1008], without the bias, of IS}, float32.
        """
        found = self.layers(x)
        logits = jnp.matmul(found["features"], self.fc.weight[...], precision=HIGHEST)
        spatial = found["spatial"].reshape(len(x), SPATIAL)
        return {"features": found["features"], "spatial": spatial, "logits": logits}


BLOCKS = tuple(f"Mixed_{n}{c}" for n, cs in ((5, "bcd"), (6, "abcde"), (7, "abc")) for c in cs)
INCEPTION = Network(InceptionV3)
OUTPUTS = {"features": FEATURES, "spatial": SPATIAL, "logits": CLASSES}
