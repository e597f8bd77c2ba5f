"""Layers of the feature networks, for inference, and networks at the jit boundary.

A network is a Flax NNX module whose attributes have the names of the PyTorch model that its public
weights are of; its parameters are a plain dict by the names of that model's state dict.
Convolutions' and linear layers' weights have the order of their axes that JAX has, [kh, kw, I, O]
and [I, O], and all else is as in the file: see `Network.params`. Everything is float32 at the
highest precision.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

HIGHEST = jax.lax.Precision.HIGHEST


def zeros(*shape):
    """A parameter; its values come from a file."""
    return nnx.Param(jnp.zeros(shape, jnp.float32))


class Conv(nnx.Module):
    """A convolution of x [B, H, W, I], [B, H', W', O].

    Arguments:
      inputs, outputs: I and O.
      size: of the kernel, a number or (height, width).
      stride: of both axes.
      padding: "SAME" as TensorFlow pads (at the end first), "VALID", or pixels on every side.
      depthwise: each channel by itself, O = I.
      bias: whether there is one.
    """

    def __init__(
        self, inputs, outputs, size=1, stride=1, padding="SAME", depthwise=False, bias=False
    ):
        height, width = (size, size) if isinstance(size, int) else size
        self.stride, self.padding, self.depthwise = stride, padding, depthwise
        self.weight = zeros(height, width, 1 if depthwise else inputs, outputs)
        self.bias = zeros(outputs) if bias else None

    def __call__(self, x):
        """x: [B, H, W, I]. Returns [B, H', W', O]."""
        kernel, stride = self.weight[...], self.stride
        if self.depthwise:
            y = _depthwise(x, kernel, stride, self._pads(x))
        elif kernel.shape[:2] == (1, 1):
            y = jnp.matmul(x[:, ::stride, ::stride], kernel[0, 0], precision=HIGHEST)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                self._pads(x),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=HIGHEST,
            )
        return y if self.bias is None else y + self.bias[...]

    def _pads(self, x):
        if isinstance(self.padding, int):
            return [(self.padding, self.padding)] * 2
        size, strides = self.weight.shape[:2], (self.stride, self.stride)
        return jax.lax.padtype_to_pads(x.shape[1:3], size, strides, self.padding)


def _depthwise(x, kernel, stride, pads):
    """A convolution of each channel by itself, as a sum of shifted products.

    XLA makes one loop of it, which on CPUs is 4 to 40 times as fast as its grouped convolution.
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (
        (size - taps) // stride + 1
        for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    y = jnp.zeros((), x.dtype)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            y += x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
    return y


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias, of stored mean and variance."""

    def __init__(self, channels, epsilon):
        self.epsilon = epsilon
        self.weight, self.bias = zeros(channels), zeros(channels)
        self.running_mean, self.running_var = zeros(channels), zeros(channels)

    def __call__(self, x):
        """x: [..., C]. Returns the same."""
        scale = self.weight[...] / jnp.sqrt(self.running_var[...] + self.epsilon)
        return x * scale + (self.bias[...] - self.running_mean[...] * scale)


class Linear(nnx.Module):
    """x W + b, of x [..., I], [..., O]."""

    def __init__(self, inputs, outputs, bias=True):
        self.weight = zeros(inputs, outputs)
        self.bias = zeros(outputs) if bias else None

    def __call__(self, x):
        """x: [..., I]. Returns [..., O]."""
        y = jnp.matmul(x, self.weight[...], precision=HIGHEST)
        return y if self.bias is None else y + self.bias[...]


def max_pool(x, size=3, stride=2, padding=0):
    """The largest of size x size pixels: [B, H, W, C] -> [B, H', W', C]."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pads)


@dataclasses.dataclass(frozen=True, eq=False)  # so that it can be a static argument
class Network:
    """A feature network without its parameters.

    Attributes:
      build: () -> the NNX module, whose parameters' values do not matter.
      repeated: {part of the module: count} of those that are as many equal ones in the file, such
        as {"blocks": 24}: their parameters are stacked along a new first axis.
      unused: {name: shape} of the file's tensors that features do not depend on.
    """

    build: Callable[[], nnx.Module]
    repeated: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unused: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __call__(self, params, x):
        """What the module makes of x [B, h, w, 3], a front end's output: {output: [B, D]}."""
        return self.module(params)(x)

    def module(self, params):
        """The module with these parameters."""
        graph, paths = self._split
        return nnx.merge(
            graph, nnx.from_flat_state([(path, params[_name(path)]) for path in paths])
        )

    @cached_property
    def shapes(self):
        """{name: shape} of the tensors of a file of weights, as PyTorch has them."""
        found = dict(self.unused)
        for path, array in self._split[1].items():
            one = np.broadcast_to(0, array.shape[path[0] in self.repeated :])
            found |= dict.fromkeys(self._in_file(path), _turned(path, one).shape)
        return found

    def params(self, tensors):
        """Parameters {name: float32 array}, of tensors as PyTorch has them.

        Of names that end in "weight", [O, I, kh, kw] becomes [kh, kw, I, O], and [O, I] [I, O].
        """
        found = {}
        for path in self._split[1]:
            arrays = [_turned(path, tensors[name], back=True) for name in self._in_file(path)]
            array = np.stack(arrays) if path[0] in self.repeated else arrays[0]
            found[_name(path)] = np.ascontiguousarray(array, np.float32)
        return found

    def _in_file(self, path):
        """The names in a file of the tensors that a parameter is made of."""
        if path[0] not in self.repeated:
            return [_name(path)]
        return [_name((path[0], n, *path[1:])) for n in range(self.repeated[path[0]])]

    @cached_property
    def _split(self):
        """(the module's static part, {path: shape} of its parameters)."""
        graph, state = nnx.split(nnx.eval_shape(self.build))
        return graph, {path: leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def _name(path):
    return ".".join(map(str, path))


def _turned(path, array, back=False):
    """An array with its axes as PyTorch has them; `back` from there to ours."""
    if path[-1] != "weight" or array.ndim not in (2, 4):
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose((2, 3, 1, 0) if back else (3, 2, 0, 1))
