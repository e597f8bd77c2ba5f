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
    logits = _logits(q[:, :queries], k)
    shares = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    h = jax.lax.dot_general(shares.astype(v.dtype), v, (((2,), (1,)), ((0,), (0,))))
    # Divided last, as [N, width] is smaller than [N, N].
    h = (h / shares.sum(-1, keepdims=True)).astype(v.dtype)
    return joined(h.reshape(qkv.shape[0], num_heads, *h.shape[1:]))


@jax.custom_vjp
def _logits(q, k):
    """Q k^T of each of a batch, in float32: [.., M, D] and [.., N, D] give [.., M, N]."""
    return jnp.einsum("bmd,bnd->bmn", q, k, preferred_element_type=jnp.float32)


def _logits_backward(kept, g):
    # In the dtype of q and k, as every product: autodiff would multiply float32 by bfloat16.
    q, k = kept
    g = g.astype(q.dtype)
    return jnp.einsum("bmn,bnd->bmd", g, k), jnp.einsum("bmn,bmd->bnd", g, q)


_logits.defvjp(lambda q, k: (_logits(q, k), (q, k)), _logits_backward)


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
