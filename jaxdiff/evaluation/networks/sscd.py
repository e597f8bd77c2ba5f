"""SSCD: descriptors of images for finding copies (Pizzi et al. 2022, arXiv:2202.10261).

A ResNet-50 (He et al. 2015, arXiv:1512.03385; with strides in the 3 x 3 convolutions), whose last
layer h [B, H, W, 2048] is pooled by a generalized mean (Radenovic et al. 2017, arXiv:1711.02512),
mapped by a linear layer to 512 numbers, and divided by its norm:

    pooled = mean(max(h, 1e-6)^3)^(1/3),        descriptor = y / max(|y|, 1e-12),  y = W pooled + b
"""

import jax.numpy as jnp
from flax import nnx

from jaxdiff.evaluation.networks.units import BatchNorm, Conv, Linear, Network, max_pool

LAYERS = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the blocks, how many
EXPANSION = 4  # of a block's width in its output
DESCRIPTOR = 512


def _norm(channels):
    return BatchNorm(channels, 1e-5)


class Bottleneck(nnx.Module):
    """A residual block of 1 x 1, 3 x 3 and 1 x 1 convolutions."""

    def __init__(self, inputs, width, stride):
        outputs = EXPANSION * width
        self.conv1, self.bn1 = Conv(inputs, width), _norm(width)
        self.conv2, self.bn2 = Conv(width, width, 3, stride, padding=1), _norm(width)
        self.conv3, self.bn3 = Conv(width, outputs), _norm(outputs)
        shortcut = [Conv(inputs, outputs, 1, stride), _norm(outputs)] if inputs != outputs else []
        self.downsample = nnx.List(shortcut)

    def __call__(self, x):
        """x: [B, H, W, I]. Returns [B, H', W', 4 width]."""
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        for part in self.downsample:
            x = part(x)
        return nnx.relu(x + y)


class ResNet50(nnx.Module):
    """The convolutional layers, with the linear one of the descriptor."""

    def __init__(self):
        self.conv1, self.bn1 = Conv(3, 64, 7, 2, padding=3), _norm(64)
        inputs = 64
        for number, (width, count) in enumerate(LAYERS, 1):
            blocks = nnx.List()
            for n in range(count):
                blocks.append(Bottleneck(inputs, width, 2 if number > 1 and n == 0 else 1))
                inputs = EXPANSION * width
            setattr(self, f"layer{number}", blocks)
        self.fc = Linear(inputs, DESCRIPTOR)

    def layers(self, x):
        """What each of the four layers returns for images [B, H, W, 3]: arrays [B, h, w, C]."""
        x = max_pool(nnx.relu(self.bn1(self.conv1(x))), padding=1)
        outputs = []
        for blocks in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in blocks:
                x = block(x)
            outputs.append(x)
        return outputs


class Sscd(nnx.Module):
    """Of images [B, H, W, 3] of mean 0 and deviation 1 over ImageNet, descriptors of length 1."""

    def __init__(self):
        self.backbone = ResNet50()

    def descriptor(self, pooled):
        """[B, 512] of the last layer's generalized means [B, 2048]."""
        y = self.backbone.fc(pooled)
        return y / jnp.maximum(jnp.linalg.norm(y, axis=-1, keepdims=True), 1e-12)

    def __call__(self, x):
        """{"features": [B, 512] float32}."""
        return {"features": self.descriptor(generalized_mean(self.backbone.layers(x)[-1]))}


def generalized_mean(x):
    """The cube root of the mean cube over positions: [B, H, W, C] -> [B, C]."""
    return jnp.cbrt((jnp.maximum(x, 1e-6) ** 3).mean((1, 2)))


SSCD = Network(Sscd)
OUTPUTS = {"features": DESCRIPTOR}
