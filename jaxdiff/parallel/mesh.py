"""The devices as a mesh with axes `data` and `fsdp`, and what lies where on it.

Batches are split over both axes, large parameters along `fsdp`; XLA does the communication. One
device is a 1 x 1 mesh, and nothing else about it is special.
"""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdiff.errors import UserError

FSDP_MIN_SIZE = 2**14


def make_mesh(fsdp=1, devices=None):
    """A mesh of all devices, `fsdp` of them along the axis of that name.

    Raises:
      UserError: if fsdp does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f"mesh.fsdp {fsdp} does not divide the {len(devices)} devices: choose a divisor."
        )
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh):
    """The sharding of what every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    """The sharding of arrays [B, ...] by sample."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def parameter_sharding(mesh, shapes):
    """Shardings for a tree of arrays or shapes.

    An array of at least 2^14 elements is split along its largest axis that `fsdp` divides; the
    others are replicated. Optimizer moments and averages have the shapes of their parameters, so
    the rule places them alike.
    """
    fsdp = mesh.shape["fsdp"]

    def rule(leaf):
        axes = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not axes or np.prod(leaf.shape) < FSDP_MIN_SIZE:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(rule, shapes)


def check_batch_size(batch_size, mesh, accumulate=1):
    """Raises UserError if the devices do not divide a training batch."""
    if batch_size < 1 or batch_size % (mesh.size * accumulate):
        parts = f"{mesh.size} devices" + (
            f" times training.accumulate {accumulate}" if accumulate > 1 else ""
        )
        raise UserError(
            f"training.batch_size {batch_size} is not divided by {parts}: "
            f"make it a multiple of {mesh.size * accumulate}."
        )


def to_devices(tree, mesh):
    """This process's parts of a batch [B / processes, ...] as global arrays sharded by sample."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def from_global(array, sharding):
    """A NumPy array that every process holds in full, as a global array in a sharding."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def placed(shapes, shardings):
    """A tree of jax.ShapeDtypeStruct that know where they lie."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
