import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdiff.models.attention import attend


def definition(qkv, num_heads):
    """softmax(q k^T / sqrt(width)) v, head by head, in float64."""
    q, k, v = np.split(np.float64(qkv), 3, axis=-1)
    found = []
    for head in range(num_heads):
        width = q.shape[-1] // num_heads
        one = (..., slice(head * width, (head + 1) * width))
        logits = q[one] @ np.swapaxes(k[one], 1, 2) / np.sqrt(width)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        found.append(shares / shares.sum(-1, keepdims=True) @ v[one])
    return np.concatenate(found, axis=-1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_is_its_definition_in_every_head(dtype):
    qkv = jax.random.normal(jax.random.key(0), (2, 9, 3 * 24), dtype)
    got, expected = attend(qkv, 3), definition(qkv, 3)
    assert got.dtype == dtype
    tolerance = 8 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(np.float64(got), expected, atol=tolerance, rtol=tolerance)
    first = attend(qkv, 3, queries=1)
    np.testing.assert_allclose(np.float32(first), np.float32(got[:, :1]), atol=float(tolerance))


def test_logits_and_softmax_are_float32_in_bfloat16():
    qkv = jnp.zeros((1, 4, 3 * 8), jnp.bfloat16)
    text = str(jax.make_jaxpr(lambda x: attend(x, 2))(qkv))
    (exponentials,) = [line for line in text.splitlines() if " exp " in line]
    assert "f32[2,4,4]" in exponentials


def test_the_derivative_is_that_of_finite_differences():
    qkv = jax.random.normal(jax.random.key(0), (2, 5, 24))
    check_grads(
        jax.jit(lambda x: attend(x, 2)), (qkv,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2
    )
