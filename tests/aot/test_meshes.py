"""Meshes of every slice that there is, by the descriptions of their devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.plan import hardware, kinds
from tests.aot import absent

CHIPS = ("v4", "v5e", "v5p", "v6e")


def divisors(number, most=256):
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]


@pytest.mark.parametrize("name", CHIPS)
def test_every_slice_can_be_split_by_every_divisor(name):
    for shape in hardware.CHIPS[name].slices:
        devices = absent.topology(f"{name}:{shape}").devices()
        sides = np.prod([int(side) for side in shape.split("x")])
        assert len(devices) == sides
        for fsdp in divisors(len(devices)):
            mesh = make_mesh(fsdp, devices)
            assert mesh.devices.shape == (sides // fsdp, fsdp)
            assert len({device.id for device in mesh.devices.flat}) == sides


@pytest.mark.parametrize("text", ["v4:2x2x2*2", "v5e:4x4*4", "v5p:4x4x4*2", "v6e:8x8*3"])
def test_parameters_are_split_within_a_slice(text):
    topology = absent.topology(text)
    devices = topology.devices()
    assert len(devices) == topology.size
    for fsdp in divisors(topology.fast):
        slices = np.vectorize(lambda device: device.slice_index)(make_mesh(fsdp, devices).devices)
        assert (slices == slices[:, :1]).all()


@pytest.mark.parametrize(("text", "fsdp"), [("v6e:2x4", 4), ("v5e:2x2*2", 2), ("v4:2x2x4", 8)])
def test_a_program_compiles_for_them(text, fsdp):
    mesh = make_mesh(fsdp, absent.topology(text).devices())

    def product(x, kernel):
        return (x @ kernel).sum(0)

    def shape(size, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(size, jnp.float32, sharding=sharding)

    x, kernel = shape((512, 256), ("data", "fsdp")), shape((256, 512), None, "fsdp")
    text = jax.jit(product).lower(x, kernel).compile().as_text()
    assert kinds.collectives(text)
