import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.parallel import mesh as mesh_lib

NAMES = ("data", "fsdp")


def test_one_device_is_a_mesh_like_any_other(one_device):
    assert dict(one_device.shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_all_devices_are_on_the_mesh(fsdp):
    mesh = mesh_lib.make_mesh(fsdp)
    assert dict(mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the mesh asks of a TPU."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    device_kind: str = "TPU v5"
    platform: str = "tpu"
    process_index: int = 0


def chips(*sizes, slices=1, cores=1, **fields):
    """The chips of slices that are boxes of a size; the last are on another network."""
    places = itertools.product(range(slices), *map(range, sizes), range(cores))
    return [
        Chip(number, tuple(coords), slice_index, core, **fields)
        for number, (slice_index, *coords, core) in enumerate(places)
    ]


def distance(a, b, sizes):
    """Hops between two chips, of a torus."""
    ways = (
        min(abs(p - q), n - abs(p - q)) for p, q, n in zip(a.coords, b.coords, sizes, strict=True)
    )
    return sum(ways)


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize(("slices", "kind"), [(1, "TPU v5"), (2, "TPU v5"), (1, "TPU v6 lite")])
def test_an_axis_of_tpus_may_be_split(fsdp, slices, kind):
    sizes = (8, 8, 1) if "lite" in kind else (4, 4, 4)
    devices = chips(*sizes, slices=slices, device_kind=kind)
    arranged = mesh_lib.arrange(devices, fsdp)
    assert arranged.shape == (64 * slices // fsdp, fsdp)
    assert sorted(device.id for device in arranged.flat) == list(range(64 * slices))
    for row in arranged:
        assert len({device.slice_index for device in row}) == 1
        for chip in row if fsdp > 1 else ():
            assert 1 in {distance(chip, other, sizes) for other in row}, "no neighbour"


def test_fsdp_does_not_cross_slices():
    devices = chips(2, 2, 2, slices=4)
    with pytest.raises(ValueError, match="16.* 8 .*4 slices"):
        mesh_lib.arrange(devices, 16)
    with pytest.raises(ValueError, match="8, 7 devices"):
        mesh_lib.arrange(devices[:15], 1)


def test_hosts_of_gpus_are_one_slice():
    devices = chips(2, 1, 1, slices=4, platform="gpu", device_kind="H100")
    assert [[d.id for d in row] for row in mesh_lib.arrange(devices, 4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_what_cannot_be_arranged_keeps_its_order():
    devices = chips(2, 2, 1, slices=2, cores=2, device_kind="TPU v4")
    arranged = mesh_lib.arrange(devices[::-1], 4)
    assert [len({d.slice_index for d in row}) for row in arranged] == [1, 1, 1, 1]
    assert {d.id for d in arranged.flat} == set(range(16))


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
    with pytest.raises(ValueError, match="fsdp 3 .* 8 devices"):
        mesh_lib.make_mesh(3)
    mesh = mesh_lib.make_mesh(2)
    with pytest.raises(ValueError, match="batch_size 12 .* multiple of 8"):
        mesh_lib.check_batch_size(12, mesh)
    with pytest.raises(ValueError, match="accumulate 3.* multiple of 24"):
        mesh_lib.check_batch_size(16, mesh, accumulate=3)
    mesh_lib.check_batch_size(48, mesh, accumulate=3)
