"""What the parameters of ADM networks are called in released checkpoints, and their layout there.

One table, `tensors`, serves import and export. Convolutions are [out, in, height, width] there
and [height, width, in, out] here, dense layers [out, in] and [in, out]. Queries, keys and values
of H heads come in the order [H, 3, width] there unless use_new_attention_order is set, and in
[3, H, width] here and in the classifiers' attention head.
"""

import dataclasses

import numpy as np
from flax.traverse_util import flatten_dict

# Layer here: (layer there, axes of length 1 that end its kernel's shape there).
PARTS = {
    "res": {
        "norm1": ("in_layers.0", 0),
        "conv1": ("in_layers.2", 0),
        "modulation": ("emb_layers.1", 0),
        "norm2": ("out_layers.0", 0),
        "conv2": ("out_layers.3", 0),
        "skip": ("skip_connection", 0),
    },
    "attention": {"norm": ("norm", 0), "qkv": ("qkv", 1), "out": ("proj_out", 1)},
}
HEADS = {
    "attention": {
        "norm": ("out.0", 0),
        "qkv": ("out.2.qkv_proj", 1),
        "out": ("out.2.c_proj", 1),
    },
    "adaptive": {"norm": ("out.0", 0), "out": ("out.3", 2)},
    "spatial": {"hidden": ("out.0", 0), "out": ("out.2", 0)},
    "spatial_v2": {"hidden": ("out.0", 0), "norm": ("out.1", 0), "out": ("out.3", 0)},
}
LEAVES = {"scale": "weight", "kernel": "weight", "embedding": "weight", "bias": "bias"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A parameter of a network, here and there.

    Attributes:
      name: in the state dict.
      path: in our parameters, separated by slashes.
      shape: in our parameters.
      transposed: whether the output channels come first there and last here.
      ones: number of axes of length 1 that end the shape there.
      heads: number of heads of queries, keys and values in the order [heads, 3, width] there; 0
        for everything else.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    transposed: bool = False
    ones: int = 0
    heads: int = 0

    @property
    def their_shape(self):
        """Shape in the state dict."""
        if not self.transposed:
            return self.shape
        return (*self.shape[:-3:-1], *self.shape[:-2]) + (1,) * self.ones

    def ours(self, array):
        """Converts an array of the state dict."""
        if self.heads:
            array = array.reshape(self.heads, 3, -1, *array.shape[1:])
            array = array.swapaxes(0, 1).reshape(self.their_shape)
        if self.transposed:
            array = array.reshape(array.shape[: array.ndim - self.ones])
            array = array.transpose(*range(2, array.ndim), 1, 0)
        return np.ascontiguousarray(array, np.float32)

    def theirs(self, array):
        """Converts a parameter of ours; the exact inverse of `ours`."""
        if self.transposed:
            array = array.transpose(-1 % array.ndim, -2 % array.ndim, *range(array.ndim - 2))
            array = array.reshape(self.their_shape)
        if self.heads:
            array = array.reshape(3, self.heads, -1, *array.shape[1:])
            array = array.swapaxes(0, 1).reshape(self.their_shape)
        return np.ascontiguousarray(array, np.float32)


def tensors(network, *, new_order=False):
    """Yields a Tensor for each parameter of a network, in about the order of the state dict.

    Args:
      network: a Network of a UNetConfig or ClassifierConfig.
      new_order: whether attention there is made with use_new_attention_order.
    """
    config, shapes = network.config, flatten_dict(network.shapes, sep="/")
    for name, path, ones in _layers(config, network.shapes):
        for leaf, suffix in LEAVES.items():
            if f"{path}/{leaf}" not in shapes:
                continue
            shape, heads, dense = shapes[f"{path}/{leaf}"].shape, 0, leaf == "kernel"
            if name.endswith(".qkv") and not new_order:
                count = config.decoder_heads if path.startswith("decoder") else config.heads
                heads = count(shape[-1] // 3)
            yield Tensor(f"{name}.{suffix}", f"{path}/{leaf}", shape, dense, dense * ones, heads)
    if position := shapes.get("head/position"):
        yield Tensor("out.2.positional_embedding", "head/position", position.shape, True)


def _layers(config, tree):
    """Yields (name there, path here, ones) of every layer, and of some that are left out."""
    yield "time_embed.0", "time1", 0
    yield "time_embed.2", "time2", 0
    yield "label_emb", "labels", 0
    yield "input_blocks.0.0", "encoder/stem", 0
    # The stem is their first block.
    for i, block in _items(tree["encoder"]["blocks"]):
        yield from _block(f"input_blocks.{i + 1}", 0, f"encoder/blocks/{i}", block)
    first, second = tree["encoder"]["middle"].values()
    yield from _block("middle_block", 0, "encoder/middle/0", first)
    yield from _block("middle_block", 2, "encoder/middle/1", second)
    if "decoder" not in tree:
        for layer, (name, ones) in HEADS[config.pool].items():
            yield name, f"head/{layer}", ones
        return
    for k, group in _items(tree["decoder"]["blocks"]):
        place = 0
        for j, block in _items(group):
            yield from _block(f"output_blocks.{k}", place, f"decoder/blocks/{k}/{j}", block)
            place += len(block)
    yield "out.0", "norm", 0
    yield "out.2", "out", 0


def _items(blocks):
    return sorted((int(i), block) for i, block in blocks.items())


def _block(name, place, path, block):
    """Yields what layers a block can have; its first part is number `place` there."""
    for part, layers in PARTS.items():
        if part in block:
            for layer, (theirs, ones) in layers.items():
                yield f"{name}.{place}.{theirs}", f"{path}/{part}/{layer}", ones
            place += 1
    yield f"{name}.{place}.{'op' if path.startswith('encoder') else 'conv'}", f"{path}/conv", 0
