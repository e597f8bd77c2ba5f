"""The devices as a mesh with axes `data` and `fsdp`, and how arrays are sharded over it.

Batches are split over both axes, large parameters along `fsdp`; XLA does the communication. One
device is a 1 x 1 mesh, and nothing else about it is special.
"""

import collections
import functools
import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiff.parallel import processes

FSDP_MIN_SIZE = 2**14


def make_mesh(fsdp=1, devices=None):
    """A mesh of devices, by default all of them, `fsdp` of them along the axis of that name.

    A mesh of the devices of one process needs no other process, neither here nor in what runs on
    it.

    Devices along `fsdp` are neighbours on the fast network where they report how they are
    connected. TPUs of several slices have `data` alone across slices.

    Raises:
      ValueError: if fsdp does not divide the number of devices, or of those in a slice; in a whole
        sentence.
    """
    devices = processes.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"mesh.fsdp {fsdp} does not divide the {len(devices)} devices: choose a divisor."
        )
    mesh = Mesh(arrange(devices, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    if processes.count() > 1 and mesh.is_multi_process:
        _connect(mesh)
    return mesh


@functools.cache
def _connect(mesh):
    """Sums a number along each axis and both, which connects the processes with each other.

    Gloo, by which processes on CPUs talk, connects a group of devices at its first sum, and gives
    up if one process is there 30 seconds before another. With large programs they are: each takes
    its own time to compile. This one is small, and they begin it together.
    """
    processes.barrier("connect")
    along = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec("fsdp"))
    ones = np.ones(mesh.devices.shape, np.float32)
    ones = from_global(ones, NamedSharding(mesh, PartitionSpec("data", "fsdp")))
    sums = jax.jit(
        lambda x: (x.sum(1), x.sum(0), x.sum()), out_shardings=(*along, replicated(mesh))
    )
    jax.block_until_ready(sums(ones))


def arrange(devices, fsdp):
    """The devices as an array [data, fsdp], by how they are connected; see `make_mesh`."""
    slices = collections.Counter(map(_slice_of, devices))
    size = len(devices) // len(slices)
    if set(slices.values()) != {size}:
        counts = ", ".join(map(str, slices.values()))
        raise ValueError(
            f"The {len(slices)} slices have {counts} devices: use slices of the same size."
        )
    if size % fsdp:
        raise ValueError(
            f"mesh.fsdp {fsdp} does not divide the {size} devices of each of the {len(slices)} "
            f"slices: choose a divisor of {size}."
        )
    shape, options = (size // fsdp, fsdp), {"allow_split_physical_axes": True}
    try:
        if len(slices) == 1:
            return mesh_utils.create_device_mesh(shape, devices, **options)
        return mesh_utils.create_hybrid_device_mesh(shape, (len(slices), 1), devices, **options)
    except (AssertionError, NotImplementedError, TypeError, ValueError):
        # Such as two devices on a chip of TPU v4, or an axis of 20 chips, which JAX cannot split
        # by 32 in all; their own order is valid, if not the fastest.
        return np.array(sorted(devices, key=_slice_of), object).reshape(-1, fsdp)


def _slice_of(device):
    """Number of a TPU's slice. Other devices have such numbers too, and may be mixed."""
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else 0


def replicated(mesh):
    """The sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    """The sharding of arrays [B, ...] by sample."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def parameter_sharding(mesh, shapes):
    """Shardings for a tree of arrays or shapes.

    An array of at least 2^14 elements is split along its largest axis that `fsdp` divides; the
    others are replicated. Optimizer moments and averages have the shapes of their parameters, so
    the rule gives them the same sharding.
    """
    fsdp = mesh.shape["fsdp"]

    def rule(leaf):
        if (axis := _split_axis(leaf.shape, fsdp)) is None:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(rule, shapes)


def _split_axis(shape, fsdp):
    """The axis that an array is split along; None: it is replicated."""
    axes = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not axes or math.prod(shape) < FSDP_MIN_SIZE:
        return None
    return max(axes, key=lambda axis: shape[axis])


def device_bytes(shapes, fsdp):
    """Bytes of a tree of shapes on one device, where `parameter_sharding` splits it by `fsdp`."""
    return sum(
        math.prod(leaf.shape)
        * leaf.dtype.itemsize
        // (1 if _split_axis(leaf.shape, fsdp) is None else fsdp)
        for leaf in jax.tree.leaves(shapes)
    )


def check_batch_size(batch_size, mesh, accumulate=1):
    """Raises ValueError if the devices do not divide a training batch."""
    if batch_size < 1 or batch_size % (mesh.size * accumulate):
        parts = f"{mesh.size} devices" + (
            f" times training.accumulate {accumulate}" if accumulate > 1 else ""
        )
        raise ValueError(
            f"training.batch_size {batch_size} is not divided by {parts}: "
            f"make it a multiple of {mesh.size * accumulate}."
        )


def rows_here(mesh, size):
    """Rows of a batch [size, ...] that this process's devices hold: int [size / processes].

    In order; on meshes of TPUs they need not follow each other.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.sort(np.concatenate([np.arange(size)[index] for index in slices]))


def to_devices(tree, mesh):
    """The rows of a batch that `rows_here` names as global arrays sharded by sample."""
    sharding = batch_sharding(mesh)
    count = len({device.process_index for device in mesh.devices.flat})

    def place(x):
        size = len(x) * count
        rows = rows_here(mesh, size)

        def part(index):
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, tree)


def from_global(array, sharding):
    """A NumPy array that every process holds in full, as a global array in a sharding."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def placed(shapes, shardings):
    """A tree of jax.ShapeDtypeStruct with shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
