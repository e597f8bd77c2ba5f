"""What a device of each kind has, after the data sheets: peak, memory, bandwidths."""

import dataclasses

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
TALL = ("4x4x12", "4x4x16", "4x8x12", "8x8x12", "8x12x12", "8x16x16", "12x12x12", "12x16x16")
V5P = ("4x4x20", "4x4x24", "4x4x28", "4x8x16", "4x8x20", "8x8x20", "8x8x24", "8x12x16", "12x12x16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A device as JAX counts them; of TPU7x half a chip.

    Attributes:
      kind: JAX's `device_kind`.
      bf16_flops: dense bfloat16 operations a second.
      hbm_bytes: memory; usable_bytes: what programs may take of it.
      hbm_bandwidth: bytes a second from and to memory.
      link_bandwidth: bytes a second that leave a device on the fast network, all links together.
      slow_bandwidth: the same between slices of TPUs, or hosts of GPUs.
      slices: shapes of the slices that there are; () of GPUs.
    """

    kind: str
    bf16_flops: float
    hbm_bytes: int
    usable_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float
    slices: tuple[str, ...] = ()

    @property
    def platform(self):
        """Of JAX: tpu or gpu."""
        return "tpu" if self.slices else "gpu"


def _tpu(kind, flops, hbm, usable, bandwidth, ici, dcn, slices):
    return Chip(
        kind=kind,
        bf16_flops=flops * 1e12,
        hbm_bytes=int(hbm * 2**30),
        usable_bytes=int(usable * 2**30),
        hbm_bandwidth=bandwidth * 1e9,
        link_bandwidth=ici / 8 * 1e9,
        slow_bandwidth=dcn * 1e9,
        slices=slices,
    )


def _gpu(kind, flops, hbm, bandwidth, nvlink, network):
    return Chip(
        kind=kind,
        bf16_flops=flops * 1e12,
        hbm_bytes=hbm,
        # XLA_PYTHON_CLIENT_MEM_FRACTION may be raised from its .75 to about this.
        usable_bytes=int(0.92 * hbm),
        hbm_bandwidth=bandwidth * 1e9,
        link_bandwidth=nvlink * 1e9,
        slow_bandwidth=network * 1e9,
    )


# TPUs: cloud.google.com/tpu/docs, the page of each version (TFLOP/s, GiB, GB/s, ICI in Gbit/s a
# chip, one way); usable GiB: what libtpu 0.0.52 says it has when a program is too large; DCN in
# GB/s a chip: "How to Scale Your Model" (jax-ml.github.io/scaling-book). GPUs: NVIDIA's data sheets
# of the SXM modules (dense TFLOP/s, GB/s, NVLink one way), and 400 or 200 Gbit/s InfiniBand for
# each GPU, as in DGX systems; memory as CUDA reports it.
CHIPS = {
    "v4": _tpu("TPU v4", 275, 32, 30.75, 1228, 2400, 6.25, CUBES + TALL),
    "v5e": _tpu("TPU v5 lite", 197, 16, 15.75, 819, 1600, 3.125, FLAT),
    "v5p": _tpu("TPU v5", 459, 96, 95.73, 2765, 4800, 6.25, CUBES + TALL + V5P),
    "v6e": _tpu("TPU v6 lite", 918, 32, 31.24, 1640, 3584, 12.5, FLAT),
    "tpu7x": _tpu("TPU7x", 1153.5, 96, 94.74, 3690, 4800, 6.25, CUBES),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 312, 84_987_740_160, 2039, 300, 25),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 989.4, 84_929_347_584, 3352, 450, 50),
    "h200": _gpu("NVIDIA H200", 989.4, 150_024_093_696, 4800, 450, 50),
}


def peak_flops(device_kind):
    """Dense bfloat16 operations a second of JAX's `device_kind`; None where it is not known."""
    known = (chip.bf16_flops for chip in CHIPS.values() if chip.kind == device_kind)
    return next(known, None)
