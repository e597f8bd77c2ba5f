"""Group normalization: against its definition in float64, and its derivative in three ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from jaxdiff.models.normalization import GroupNorm, normalized

GROUPS = 4


def definition(x, gain, bias, groups, silu):
    """The equation, in the dtype of x, differentiated by autodiff."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    y = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
    y = y * gain.reshape(shape) + bias.reshape(shape)
    return y / (1 + jnp.exp(-y)) if silu else y


def in_float64(x, gain, bias, groups, silu):
    """The same by NumPy."""
    x, gain, bias = (np.asarray(a, np.float64) for a in (x, gain, bias))
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    y = grouped - grouped.mean((1, 3), keepdims=True)
    y = (y / np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-5)).reshape(x.shape)
    shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
    y = y * gain.reshape(shape) + bias.reshape(shape)
    return y / (1 + np.exp(-y)) if silu else y


def inputs(shape, offset=0.0):
    keys = jax.random.split(jax.random.key(0), 4)
    x = offset + jax.random.normal(keys[0], shape) * jnp.linspace(0.5, 2, shape[-1])
    gain, bias = jax.random.normal(keys[1], (2, shape[0], shape[-1]))
    return x, gain, bias, jax.random.normal(keys[2], shape)


@pytest.mark.parametrize(
    ("shape", "silu"),
    [((2, 4, 6, 8), False), ((2, 4, 6, 8), True), ((3, 5, 16), True), ((4, 32), False)],
)
def test_values_and_derivatives_are_those_of_the_definition(shape, silu):
    *arguments, g = inputs(shape)

    def with_derivatives(function):
        y, pull = jax.vjp(function, *arguments)
        return y, pull(g)

    got, own = jax.jit(with_derivatives, static_argnums=0)(
        lambda *a: normalized(*a, GROUPS, silu, jnp.float32)
    )
    expected, others = jax.jit(with_derivatives, static_argnums=0)(
        lambda *a: definition(*a, GROUPS, silu)
    )
    np.testing.assert_allclose(got, in_float64(*arguments, GROUPS, silu), atol=3e-6)
    np.testing.assert_allclose(got, expected, atol=3e-6)
    for one, other in zip(own, others, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_derivative_is_that_of_finite_differences():
    x, gain, bias, _ = inputs((2, 3, 3, 8))
    check_grads(
        jax.jit(lambda *a: normalized(*a, GROUPS, True, jnp.float32)),
        (x, gain, bias),
        order=1,
        modes=["rev"],
        atol=2e-2,
        rtol=2e-2,
    )


def test_a_mean_of_a_thousand_standard_deviations_does_not_cancel():
    x, gain, bias, _ = inputs((2, 8, 8, 8), offset=1000.0)
    got = normalized(x, gain, bias, GROUPS, False, jnp.float32)
    # Of E[x^2] - E[x]^2 in float32, a variance of about 1 beside 10^6 would keep one digit.
    np.testing.assert_allclose(got, in_float64(x, gain, bias, GROUPS, False), atol=1e-3)


def test_large_values_have_finite_derivatives_of_silu():
    x = jnp.array([[-1.0], [1.0]]).reshape(1, 2, 1) * jnp.ones((1, 2, 8))
    gain, bias = jnp.full((1, 8), 1000.0), jnp.zeros((1, 8))
    y, pull = jax.vjp(lambda *a: normalized(*a, 8, True, jnp.float32), x, gain, bias)
    np.testing.assert_allclose(y[0, :, 0], [0, 1000], rtol=1e-4)
    assert all(np.isfinite(each).all() for each in pull(jnp.ones_like(y)))
    # The derivative of SiLU is 0 far to the left and 1 far to the right.
    np.testing.assert_allclose(pull(jnp.ones_like(y))[2], 1, rtol=1e-5)
    np.testing.assert_allclose(pull(1e8 * jnp.ones_like(y))[2], 1e8, rtol=1e-5)


def test_statistics_of_bfloat16_are_float32():
    x, gain, bias, _ = inputs((2, 16, 16, 8), offset=4.0)
    x = x.astype(jnp.bfloat16)
    got = normalized(x, gain, bias, GROUPS, False, jnp.float32)
    np.testing.assert_allclose(got, in_float64(x, gain, bias, GROUPS, False), atol=1e-5)


def test_adagn_scales_and_shifts_what_the_norm_returns():
    norm = GroupNorm(64, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = inputs((1, 2, 64))[1][0], inputs((1, 2, 64))[2][0]
    x, scale, shift, _ = inputs((2, 4, 4, 64))
    expected = norm(x) * (1 + scale)[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(norm(x, scale, shift), expected, atol=1e-5)
    np.testing.assert_allclose(
        norm(x, scale, shift, silu=True, dtype=jnp.bfloat16).astype(jnp.float32),
        jax.nn.silu(expected),
        rtol=2**-8,
        atol=1e-5,
    )
    own = nnx.GroupNorm(64, num_groups=32, epsilon=1e-5, rngs=nnx.Rngs(0))
    own.scale[...], own.bias[...] = norm.scale[...], norm.bias[...]
    np.testing.assert_allclose(norm(x), own(x), atol=3e-6)


def test_little_is_kept_for_the_backward_pass():
    x, gain, bias, _ = inputs((4, 16, 16, 32))
    kept = jax.eval_shape(
        lambda *a: jax.vjp(lambda *a: normalized(*a, 8, True, jnp.float32), *a)[1], x, gain, bias
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(kept))
    assert size <= x.size + 4 * gain.size
