import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.parallel import mesh as mesh_lib

NAMES = ("data", "fsdp")


def test_one_device_is_a_mesh_like_any_other(one_device):
    assert dict(one_device.shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_all_devices_are_on_the_mesh(fsdp):
    mesh = mesh_lib.make_mesh(fsdp)
    assert dict(mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}


def test_large_arrays_are_split_along_their_largest_divisible_axis():
    mesh = mesh_lib.make_mesh(4)
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
        "odd": jax.ShapeDtypeStruct((130, 512), jnp.float32),
        "tall": jax.ShapeDtypeStruct((64, 1023), jnp.float32),
        "small": jax.ShapeDtypeStruct((64, 64), jnp.float32),
        "prime": jax.ShapeDtypeStruct((131, 127), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {k: tuple(s.spec) for k, s in mesh_lib.parameter_sharding(mesh, shapes).items()}
    assert specs == {
        "kernel": (None, None, None, "fsdp"),
        "odd": (None, "fsdp"),
        "tall": ("fsdp",),
        "small": (),
        "prime": (),
        "scalar": (),
    }


def test_without_fsdp_parameters_are_whole_everywhere():
    mesh = mesh_lib.make_mesh(1)
    sharding = mesh_lib.parameter_sharding(mesh, jnp.zeros((512, 512)))
    assert sharding.is_fully_replicated


def test_a_batch_is_spread_over_all_devices():
    mesh = mesh_lib.make_mesh(2)
    batch = mesh_lib.to_devices({"x": np.arange(16)}, mesh)["x"]
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}
    np.testing.assert_array_equal(batch, np.arange(16))


def test_mesh_and_batch_must_divide():
    with pytest.raises(UserError, match="fsdp 3 does not divide the 8 devices"):
        mesh_lib.make_mesh(3)
    mesh = mesh_lib.make_mesh(2)
    with pytest.raises(UserError, match="batch_size 12 .* multiple of 8"):
        mesh_lib.check_batch_size(12, mesh)
    with pytest.raises(UserError, match="accumulate 3.* multiple of 24"):
        mesh_lib.check_batch_size(16, mesh, accumulate=3)
    mesh_lib.check_batch_size(48, mesh, accumulate=3)
