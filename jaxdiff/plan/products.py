"""Operations of the products in a compiled program."""

import math
import re

from jaxdiff.counts import taps

# Where the parts of a convolution are in calls of cuDNN: 0, 1: operands, -1: the result.
CUDNN = {
    "Forward": (0, 1, -1),
    "BiasActivationForward": (0, 1, -1),
    "BackwardInput": (-1, 1, 0),
    "BackwardFilter": (0, -1, 1),
}


def flops_of(module, computation, each):
    """Operations of an instruction's products, as `counts` defines them."""
    if each.opcode == "fusion":
        inner = module.computations[each.calls]
        return sum(flops_of(module, inner, i) for i in inner.instructions)
    if each.opcode == "dot":
        return _dot(computation, each, r"lhs_contracting_dims=\{([\d,]*)\}")
    if each.opcode == "convolution":
        return _conv(computation, each, (0, 1, -1))
    if match := re.match(r"__cudnn\$conv(\w+)$", each.target):
        return _conv(computation, each, CUDNN.get(match[1], (0, 1, -1)))
    if each.target.startswith("__cublas"):
        return _dot(computation, each, r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
    return 0


def _dot(computation, each, pattern):
    axes = re.search(pattern, each.attributes)
    left = computation.named[each.operands[0]].results[0].dims
    contracted = [left[int(axis)] for axis in re.findall(r"\d+", axes[1])] if axes else []
    return 2 * math.prod(each.results[0].dims) * math.prod(contracted)


def _conv(computation, each, places):
    """Of a convolution with `window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f`."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    if labels is None:
        return 0
    sides = []
    for place, text in zip(places, labels.groups(), strict=True):
        array = each.results[0] if place < 0 else computation.named[each.operands[place]].results[0]
        sides.append(dict(zip(text, array.dims, strict=False)))
    left, right, out = sides
    window = re.search(r"window=\{([^}]*)\}", each.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    pairs = 1
    for axis in range(len(labels[1]) - 2):
        low = fields["pad"].split("x")[axis].split("_")[0] if "pad" in fields else 0
        numbers = (
            int(fields[name].split("x")[axis]) if name in fields else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        stride, dilation, window_dilation = numbers
        name = str(axis)
        pairs *= taps(
            left[name], right[name], out[name], stride, int(low), dilation, window_dilation
        )
    return 2 * out["b"] * out["f"] * right["i"] * pairs
