"""Attention among the positions of an image, by products of whole matrices.

    attention(q, k, v) = softmax(q k^T / sqrt(width)) v

(Vaswani et al. 2017, arXiv:1706.03762, section 3.2), with q, k, v [N, width] of each head. The
logits and the softmax are in float32, the shares of the positions in the dtype of v.
"""

import jax
import jax.numpy as jnp


def attend(qkv, num_heads, queries=None):
    """Multi-head attention among tokens.

    Args:
      qkv: [B, N, 3C], laid out [3, num_heads, C / num_heads].
      num_heads: number of heads.
      queries: how many of the tokens ask, from the first; all, if None.

    Returns:
      [B, N or queries, C], in the dtype of qkv.
    """
    # One axis for samples and heads, and heads split before: CPUs multiply such batches fastest.
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in by_head(qkv, num_heads))
    logits = jax.lax.dot_general(
        q[:, :queries], k, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )
    shares = jax.nn.softmax(logits).astype(v.dtype)
    h = jax.lax.dot_general(shares, v, (((2,), (1,)), ((0,), (0,))))
    return joined(h.reshape(qkv.shape[0], num_heads, *h.shape[1:]))


def by_head(qkv, num_heads):
    """Q / sqrt(width), k and v, each [B, num_heads, N, width], of qkv as `attend` takes it."""
    q, k, v = (
        jnp.swapaxes(x.reshape(*x.shape[:2], num_heads, -1), 1, 2)
        for x in jnp.split(qkv, 3, axis=-1)
    )
    return q * q.shape[-1] ** -0.5, k, v


def joined(h):
    """[B, num_heads, N, width] -> [B, N, C]: the heads beside each other."""
    batch, heads, tokens, width = h.shape
    return jnp.swapaxes(h, 1, 2).reshape(batch, tokens, heads * width)
