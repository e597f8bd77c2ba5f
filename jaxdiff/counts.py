"""Floating-point operations of a program, counted before it is compiled.

XLA counts a fused attention as 0 and, for GPUs, nothing at all, so operations are counted in the
jaxpr of the plain program. What counts are products, two operations for a multiplication and its
addition:

    dot_general             2 * batch * rows * columns * contracted
    conv_general_dilated    2 * B * C_out * (C_in / groups) * prod over dimensions of the pairs
                            (output position, tap of the filter) that meet an element of the input

A tap that falls on padding, or between the elements of a dilated input, is not computed by
definition, and not counted; so a convolution's two gradients have as many operations as itself.
Programs that are split over devices are counted for all of them together.
"""

import math
from collections import Counter

import numpy as np

from jaxdiff.scopes import KINDS, OTHER, kind_of, ordered

PRODUCTS = ("dot_general", "conv_general_dilated")
# Integer operations for a random word of 32 bits: threefry gives two words in 20 rounds of an
# addition, a rotation (two shifts and an "or") and an "xor", with 12 additions of keys.
RANDOM_WORD = (20 * 5 + 12) / 2
# What moves, names or converts values without computing any.
FREE = frozenset(
    (
        *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "split", "rev"),
        *("slice", "dynamic_slice", "dynamic_update_slice", "gather", "concatenate", "pad", "iota"),
        *("copy", "copy_p", "convert_element_type", "bitcast_convert_type", "stop_gradient"),
        *("random_wrap", "random_unwrap", "random_seed", "random_fold_in", "random_split"),
        *("optimization_barrier", "sharding_constraint", "device_put", "axis_index", "pvary"),
        *("get", "swap", "program_id", "num_programs", "empty"),
    )
)


def flops_by_kind(jaxpr, trips=1):
    """Operations of products: {kind: number}, of the kinds in `scopes.ORDER`.

    A product is of the kind that its scope names; outside of scopes a convolution is a
    convolution, a product with batch dimensions is attention's, and another is a linear layer's.

    Args:
      jaxpr: of `jax.make_jaxpr`.
      trips: how often a `while` runs, which a jaxpr does not say; a `scan` says it.

    Raises:
      NotImplementedError: for a call whose body is not known how to count.
    """
    return _by_kind(jaxpr, trips, products=True)


def elementwise_by_kind(jaxpr, trips=1):
    """All other operations: one for each element computed, or read by a reduction.

    They run on other units than products, and are bound by memory nearly always. Transcendental
    functions count one, converting a type nothing, random bits as threefry makes them.
    """
    return _by_kind(jaxpr, trips, products=False)


def _by_kind(jaxpr, trips, products):
    numbers = _count(getattr(jaxpr, "jaxpr", jaxpr), trips, None)
    return ordered(
        {kind: n for (kind, of_products), n in numbers.items() if of_products == products}
    )


def _count(jaxpr, trips, kind):
    """{(kind, whether a product): number} of a jaxpr inside a scope of a kind, or None."""
    numbers = Counter()
    for eqn in jaxpr.eqns:
        inside = kind_of(str(eqn.source_info.name_stack)) or kind
        for key, number in _count_one(eqn, trips, inside).items():
            numbers[key] += number
    return numbers


def _count_one(eqn, trips, kind):
    name = eqn.primitive.name
    if name in PRODUCTS:
        flops = _dot(eqn) if name == "dot_general" else _conv(eqn)
        return {(kind or _default(eqn), True): flops}
    if name == "cond":
        branches = [_count(branch.jaxpr, trips, kind) for branch in eqn.params["branches"]]
        return max(branches, key=lambda branch: sum(branch.values()))
    body, times = _body(eqn, trips)
    if body is not None:
        numbers = _count(body, trips, kind)
        return {key: times * number for key, number in numbers.items()}
    return {(kind or OTHER, False): _elements(eqn)}


def _body(eqn, trips):
    """(the jaxpr that an equation calls, how often), or (None, 0)."""
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        return params["body_jaxpr"].jaxpr, trips
    body = params.get("call_jaxpr", params.get("jaxpr"))
    if body is None or name.startswith("reduce"):
        return None, 0
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":
        axes = params.get("newly_manual_axes", params.get("manual_axes"))
        times = math.prod(params["mesh"].shape[axis] for axis in axes)
    elif name == "pallas_call":
        times = math.prod(params["grid_mapping"].grid)
    return getattr(body, "jaxpr", body), times


def _default(eqn):
    if eqn.primitive.name == "conv_general_dilated":
        return KINDS["conv"]
    _, (batch, _) = eqn.params["dimension_numbers"]
    return KINDS["attention" if batch else "linear"]


def _dot(eqn):
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _conv(eqn):
    params, (left, right) = eqn.params, (each.aval.shape for each in eqn.invars)
    numbers = params["dimension_numbers"]
    out = eqn.outvars[0].aval.shape
    _, channels, *filters = (right[axis] for axis in numbers.rhs_spec)
    batch, features, *results = (out[axis] for axis in numbers.out_spec)
    inputs = [left[axis] for axis in numbers.lhs_spec[2:]]
    pairs = (
        taps(*sizes, *rest)
        for *sizes, rest in zip(
            inputs,
            filters,
            results,
            zip(
                params["window_strides"],
                (low for low, _ in params["padding"]),
                params["lhs_dilation"],
                params["rhs_dilation"],
                strict=True,
            ),
            strict=True,
        )
    )
    return 2 * batch * features * channels * math.prod(pairs)


def taps(size, window, result, stride=1, low=0, dilation=1, window_dilation=1):
    """Pairs of an output position and a tap of the filter that meet an input, in one dimension.

    Args:
      size, window, result: of the input, the filter and the output.
      stride: of the filter over the input.
      low: padding before the input.
      dilation: distance of the input's elements from each other, with holes between.
      window_dilation: the same of the filter's taps.
    """
    at = np.arange(result)[:, None] * stride + np.arange(window) * window_dilation - low
    return int(((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)).sum())


def _elements(eqn):
    name = eqn.primitive.name
    if name in FREE:
        return 0
    size = sum(math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape"))
    if name == "random_bits":
        return size * RANDOM_WORD * max(eqn.params["bit_width"], 8) / 32
    if name.startswith(("reduce", "arg", "cum")):
        return max(math.prod(v.aval.shape) for v in eqn.invars)
    return size
