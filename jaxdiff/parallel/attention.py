"""Attention by the fused kernels of accelerators, each device on its own samples.

The plain computation writes its N x N logits and shares of every head to memory and reads them
again in the backward pass. A fused kernel keeps a block of them in fast memory, and computes them
again backward (Dao et al. 2022, arXiv:2205.14135). TPUs run splash attention, a Pallas kernel, with
one kernel for the whole backward pass; GPUs run cuDNN's. Both come with JAX.

Kernels are opaque to XLA's partitioner, so each device runs one on its share of the batch, under
`shard_map`. Samples and heads are independent, so nothing is communicated.

The plain computation remains where there is no kernel: on CPUs, in float32, for fewer tokens than a
block of the kernel has (8 x 8), and for batches that the devices do not divide.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxdiff.models.attention import attend, by_head, joined

# Tokens of a block: the largest that divides all of them. A table of 1024 x 1024 float32 logits
# fits into a TPU's vector memory.
BLOCKS = (1024, 512, 256, 128)
WIDEST_HEAD = {"tpu": 256, "gpu": 128}


def attention_for(mesh):
    """What computes the attention of networks that run on a mesh; None: the plain computation.

    The mesh may be of devices that are not there, to compile for.
    """
    device = mesh.devices.flat[0]
    if device.platform == "tpu":
        return FusedAttention(mesh, splash, WIDEST_HEAD["tpu"])
    if device.platform == "gpu" and _runs_cudnn(device):
        return FusedAttention(mesh, cudnn, WIDEST_HEAD["gpu"])
    return None


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """Multi-head attention by a kernel where that applies; takes and returns what `attend` does.

    Equal ones share compiled programs.

    Attributes:
      mesh: the devices; the batch is split over both axes.
      kernel: (qkv, num_heads) -> [B, N, C], on one device.
      widest: of the heads that the kernel takes.
    """

    mesh: Mesh
    kernel: Callable
    widest: int

    def __call__(self, qkv, num_heads):
        """qkv: [B, N, 3C]. Returns [B, N, C]."""
        if not self.applies(qkv, num_heads):
            return attend(qkv, num_heads)
        split = PartitionSpec(("data", "fsdp"))
        kernel = partial(self.kernel, num_heads=num_heads)
        # Kernels do not say along which axes of the mesh their results vary.
        sharded = jax.shard_map(
            kernel, mesh=self.mesh, in_specs=split, out_specs=split, check_vma=False
        )
        return sharded(qkv)

    def applies(self, qkv, num_heads):
        """Whether the kernel takes such an array; else the plain computation does."""
        batch, tokens, channels = qkv.shape
        width = channels // 3 // num_heads
        return (
            qkv.dtype == jnp.bfloat16
            and batch % self.mesh.size == 0
            and _block(tokens) is not None
            and width % 8 == 0
            and width <= self.widest
        )


def _block(tokens):
    return next((size for size in BLOCKS if tokens % size == 0), None)


def splash(qkv, num_heads):
    """Splash attention without a mask, on a TPU."""
    # Pallas takes a second to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        FullMask,
        MultiHeadMask,
        make_splash_mha,
    )

    batch, tokens, _ = qkv.shape
    size = _block(tokens)
    kernel = make_splash_mha(
        MultiHeadMask([FullMask((tokens, tokens))] * (batch * num_heads)),
        block_sizes=BlockSizes(
            block_q=size,
            block_kv=size,
            block_q_dkv=size,
            block_kv_dkv=size,
            # The gradients of q, k and v from one pass over the logits, which are computed once.
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
    )
    # The kernel knows heads and no batch: every sample's are heads of its own.
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in by_head(qkv, num_heads))
    return joined(kernel(q, k, v).reshape(batch, num_heads, tokens, -1))


def cudnn(qkv, num_heads):
    """CuDNN's fused attention, on a GPU."""
    batch, tokens, channels = qkv.shape
    q, k, v = (x.reshape(batch, tokens, num_heads, -1) for x in jnp.split(qkv, 3, axis=-1))
    h = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return h.reshape(batch, tokens, channels // 3)


def _runs_cudnn(device):
    """Whether cuDNN is installed, and has this kernel for the GPU: Ampere or newer."""
    example = jax.ShapeDtypeStruct((1, BLOCKS[-1], 3 * WIDEST_HEAD["gpu"]), jnp.bfloat16)
    try:
        capability = float(getattr(device, "compute_capability", 0))
        jax.eval_shape(partial(cudnn, num_heads=1), example)
    except (RuntimeError, ValueError):  # no cuDNN, or a GPU of another maker, such as gfx942
        return False
    return capability >= 8
