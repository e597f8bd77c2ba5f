"""Fused attention: its kernel for TPUs interpreted on the CPU, and where it is chosen."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from jaxdiff import factory
from jaxdiff.models.attention import attend
from jaxdiff.parallel import attention
from jaxdiff.parallel.attention import FusedAttention, attention_for, splash
from jaxdiff.parallel.mesh import make_mesh
from tests import tiny


def fused(mesh, kernel=splash):
    return FusedAttention(mesh, kernel, 256)


def relative_error(got, expected):
    got, expected = np.float32(got), np.float32(expected)
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def test_the_kernel_for_tpus_equals_the_plain_computation_on_every_device():
    mesh, heads = make_mesh(2, jax.devices()[:4]), 2
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    keys = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(keys[0], (4, 128, 3 * heads * 64), jnp.bfloat16)
    weight = jax.random.normal(keys[1], (4, 128, heads * 64), jnp.bfloat16)

    def both(attend):
        def run(qkv, weight):
            out, back = jax.vjp(lambda qkv: attend(qkv, heads), qkv)
            return out, *back(weight.astype(out.dtype))

        return jax.jit(run, in_shardings=split)(qkv, weight)

    with pltpu.force_tpu_interpret_mode():
        found = both(fused(mesh))
    exact = both(lambda qkv, heads: attend(qkv.astype(jnp.float32), heads))
    for got, plain, expected in zip(found, both(attend), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        # Both are as near to the values of float32 as numbers in bfloat16 are to each other.
        for values in (got, plain):
            assert relative_error(values, expected) < jnp.finfo(jnp.bfloat16).eps


def test_a_kernel_is_used_for_what_it_takes_and_equal_choices_are_equal(monkeypatch):
    mesh = make_mesh(2, jax.devices()[:4])
    chosen = fused(mesh)
    assert chosen == fused(make_mesh(2, jax.devices()[:4]))
    assert hash(chosen) == hash(fused(mesh))
    assert chosen != fused(make_mesh(1, jax.devices()[:4]))

    def applies(batch=4, tokens=1024, channels=128, heads=2, dtype=jnp.bfloat16):
        return chosen.applies(jax.ShapeDtypeStruct((batch, tokens, 3 * channels), dtype), heads)

    assert applies()
    assert applies(tokens=256)
    assert not applies(tokens=64)
    assert not applies(tokens=100)
    assert not applies(batch=6)
    assert not applies(dtype=jnp.float32)
    assert not applies(channels=1024)
    assert not applies(channels=24)
    # And then the plain computation is what runs: the kernel would raise here.
    qkv = jax.random.normal(jax.random.key(0), (3, 64, 3 * 16), jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(chosen(qkv, 1)), np.float32(attend(qkv, 1)))


def test_the_platform_of_the_devices_chooses(monkeypatch):
    def choice(platform, **device):
        mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform, **device)]]))
        return attention_for(mesh)

    assert choice("cpu") is None
    assert choice("tpu").kernel is splash
    monkeypatch.setattr(jax, "eval_shape", lambda *_: None)
    assert choice("gpu", compute_capability="9.0").kernel is attention.cudnn
    assert choice("gpu", compute_capability="7.5") is None
    assert choice("gpu") is None

    def missing(*_):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(jax, "eval_shape", missing)
    assert choice("gpu", compute_capability="9.0") is None


def test_a_network_computes_its_attention_by_what_its_signature_has():
    config = tiny.config(model__attention_resolutions=(8,), model__channels=64)
    plain = factory.network(config, make_mesh())
    assert plain == factory.network(config)
    sizes = []

    def counted(qkv, num_heads):
        sizes.append(qkv.shape)
        return attend(qkv, num_heads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "attention_for", lambda mesh: counted)
        other = factory.network(config, make_mesh())
    assert other != plain
    x, time = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)

    def program(network):
        def run(params):
            return network.apply(params, x, time)

        return str(jax.make_jaxpr(run)(network.shapes))

    assert program(other) == program(plain)
    # After every residual block of the one level but the last of the middle.
    blocks = 2 * config.model.num_res_blocks + 1
    assert sizes == [(2, 64, 3 * 64)] * (blocks + 1)
