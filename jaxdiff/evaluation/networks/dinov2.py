"""DINOv2's vision transformers (Oquab et al. 2023, arXiv:2304.07193), with and without registers.

An image is cut into patches of 14 x 14, which with a class token go through blocks of

    x <- x + gain_1 * attention(norm_1(x)),        x <- x + gain_2 * mlp(norm_2(x))

(LayerNorm with epsilon 1e-6; exact GELU, or SwiGLU in the largest). Its features are the class
token after a last norm. Registers (Darcet et al. 2023, arXiv:2309.16588) are tokens beside it that
have no position.

Positions were learned for 37 x 37 patches and are resized to those of the image as the released
code does it, in two ways. Without registers, row i of n is at (i + 1/2) 37 / (n + 0.1) - 1/2 of
the 37, by a bicubic filter of a = -0.75 that does not smooth: FD-DINOv2 is measured with this one.
With registers, row i is at (i + 1/2) 37 / n - 1/2, by the bicubic filter of a = -0.5 that does.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.evaluation.front_ends import antialiased_bicubic, torch_bicubic
from jaxdiff.evaluation.networks.units import Conv, Linear, Network, zeros
from jaxdiff.models.attention import attend


@dataclasses.dataclass(frozen=True)
class Dinov2Config:
    """Sizes of a transformer.

    Attributes:
      width: D, of a token.
      depth: number of blocks.
      heads: of the attention.
      swiglu: whether the blocks' MLPs are SwiGLU, of two thirds of the hidden width.
      registers: number of register tokens.
      offset: what is added to the number of patches in a row where positions are resized.
      antialias: whether positions are resized by a filter that smooths.
      image_size: that the positions were learned at, in pixels.
      patch: height and width of a patch, in pixels.
      mlp_ratio: hidden width of the MLPs over `width`.
    """

    width: int
    depth: int
    heads: int
    swiglu: bool = False
    registers: int = 0
    offset: float = 0.1
    antialias: bool = False
    image_size: int = 518
    patch: int = 14
    mlp_ratio: float = 4


def _with_registers(config):
    return dataclasses.replace(config, registers=4, offset=0.0, antialias=True)


SIZES = {
    "vits14": Dinov2Config(384, 12, 6),
    "vitb14": Dinov2Config(768, 12, 12),
    "vitl14": Dinov2Config(1024, 24, 16),
    "vitg14": Dinov2Config(1536, 40, 24, swiglu=True),
}
SIZES |= {f"{name}-reg4": _with_registers(config) for name, config in SIZES.items()}


class Mlp(nnx.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width, hidden):
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def __call__(self, x):
        """x: [..., D]. Returns [..., D]."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class SwiGlu(nnx.Module):
    """silu(x W1 + b1) * (x W2 + b2), linear (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width, hidden):
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def __call__(self, x):
        """x: [..., D]. Returns [..., D]."""
        gate, value = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(jax.nn.silu(gate) * value)


class Attention(nnx.Module):
    """Attention among all tokens."""

    def __init__(self, width, heads):
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def __call__(self, x):
        """x: [B, N, D]. Returns [B, N, D]."""
        return self.proj(attend(self.qkv(x), self.heads))


class Gain(nnx.Module):
    """Multiplies each channel by a number of its own."""

    def __init__(self, width):
        self.gamma = zeros(width)

    def __call__(self, x):
        """x: [..., D]. Returns [..., D]."""
        return x * self.gamma[...]


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-6) * weight + bias, over the channels."""

    def __init__(self, width):
        self.weight, self.bias = zeros(width), zeros(width)

    def __call__(self, x):
        """x: [..., D]. Returns [..., D]."""
        x = x - x.mean(-1, keepdims=True)
        scale = self.weight[...] * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * scale + self.bias[...]


class Block(nnx.Module):
    """A block of the transformer."""

    def __init__(self, config):
        width = config.width
        mlp = SwiGlu if config.swiglu else Mlp
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.ls1, self.ls2 = Gain(width), Gain(width)
        self.attn = Attention(width, config.heads)
        self.mlp = mlp(width, int(width * config.mlp_ratio))

    def __call__(self, x):
        """x: [B, N, D]. Returns [B, N, D]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nnx.Module):
    """Each patch's linear map of its pixels."""

    def __init__(self, config):
        self.proj = Conv(3, config.width, config.patch, config.patch, "VALID", bias=True)

    def __call__(self, images):
        """Images: [B, H, W, 3]. Returns [B, H / 14, W / 14, D]."""
        return self.proj(images)


class Dinov2(nnx.Module):
    """The transformer of a Dinov2Config; its blocks' parameters have a first axis, `depth` long."""

    def __init__(self, config):
        self.config = config
        width, side = config.width, config.image_size // config.patch
        self.patch_embed = Patches(config)
        self.cls_token = zeros(1, 1, width)
        self.pos_embed = zeros(1, 1 + side**2, width)
        if config.registers:
            self.register_tokens = zeros(1, config.registers, width)
        # Compiled as one block, and called in a loop over their parameters.
        self.blocks = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (config.depth, *x.shape)), Block(config)
        )
        self.norm = LayerNorm(width)

    def __call__(self, images):
        """{"features": the class token [B, D] float32}, of images as `tokens` takes them."""
        return {"features": self.tokens(images)[0]}

    def tokens(self, images):
        """The last layer's tokens.

        Args:
          images: [B, H, W, 3] float32, height and width multiples of 14, of mean 0 and deviation 1.

        Returns:
          (class token [B, D], patches [B, H / 14 * W / 14, D], row by row), float32.
        """
        # Features are compared with those of other programs, so accelerators shall not round.
        with jax.default_matmul_precision("highest"):
            x = self.patch_embed(images)
            batch, rows, columns, width = x.shape
            x = _joined(self.cls_token[...], x.reshape(batch, -1, width))
            x = x + self.positions(rows, columns)
            if self.config.registers:
                x = _joined(x[:, :1], self.register_tokens[...], x[:, 1:])
            x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
            x = self.norm(x)
        return x[:, 0], x[:, 1 + self.config.registers :]

    def positions(self, rows, columns):
        """The class token's position and those of rows x columns patches: [1, 1 + N, D]."""
        positions = self.pos_embed[...]
        side = self.config.image_size // self.config.patch
        if rows == columns == side:
            return positions
        grid = positions[0, 1:].reshape(side, side, -1)
        ways = [self._resize(side, size) for size in (rows, columns)]
        grid = jnp.einsum("ih,jw,hwd->ijd", *ways, grid, precision="highest")
        return jnp.concatenate([positions[:, :1], grid.reshape(1, rows * columns, -1)], axis=1)

    def _resize(self, side, size):
        resize = antialiased_bicubic if self.config.antialias else torch_bicubic
        return resize(side, size, self.config.offset)


def network(config):
    """The Network of a Dinov2Config; files hold a token for masks besides."""
    unused = {"mask_token": (1, config.width)}
    return Network(lambda: Dinov2(config), {"blocks": config.depth}, unused)


def _joined(*tokens):
    """Tokens [B or 1, N, D] one after another."""
    batch = max(x.shape[0] for x in tokens)
    return jnp.concatenate([jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in tokens], axis=1)
