"""Bytes, operations and collectives of compiled programs: written by hand, and of the CPU."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxdiff.plan import hlo, kinds

PROGRAMS = pathlib.Path(__file__).parent / "programs"
# A convolution whose input is fetched to the chip, as libtpu writes it; three turns of a loop that
# reads a row of a table and writes one in place; collectives in every form; a call of cuDNN.
TPU, LOOP, NETWORK, CUDNN = (
    (PROGRAMS / f"{name}.hlo").read_text() for name in ("tpu", "loop", "network", "cudnn")
)


def test_bytes_of_a_tpu_program():
    found = kinds.traffic(TPU)
    x, w = 8 * 16 * 16 * 192 * 2, 9 * 192 * 192 * 2
    # x is read once, by the copy to the chip; the convolution reads w and writes its result.
    assert found.by_kind("bytes") == {"convolutions": x + w + x}
    # 192 channels take two rows of 128 lanes.
    assert found.by_kind("padded") == {"convolutions": (x + w + x) * 256 // 192}
    taps = 3 * 16 - 2
    assert found.by_kind("flops") == {"convolutions": 2 * 8 * taps**2 * 192 * 192}
    assert found.kernels == 2


def test_turns_of_loops_and_slices_of_tables():
    found = kinds.traffic(LOOP)
    row, i = 1024 * 4, 4
    reading, writing = 2 * row + i, 2 * row + i
    assert found.by_kind("bytes") == {"dropout": 3 * reading, "other": 3 * writing}
    assert found.kernels == 6


def test_turns_that_the_compiler_does_not_know_are_given():
    unknown = LOOP.replace("%bound = s32[] constant(3)", "%bound = s32[] copy(%i.2)")
    assert kinds.traffic(unknown, trips=50).kernels == 100
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert kinds.traffic(known, trips=50).kernels == 14


def test_collectives_in_all_their_forms():
    found = {(c.kind, c.dtype, c.group): (c.count, c.bytes) for c in kinds.collectives(NETWORK)}
    assert found == {
        ("all-gather", "bf16", 4): (1, 128 * 2 * 4),
        ("all-gather", "f32", 2): (1, 2048 * 4),
        ("all-reduce", "f32", 8): (2, 1024 * 4 + 2048 * 4),
        ("reduce-scatter", "f32", 4): (1, 1024 * 4),
        ("collective-permute", "f32", 2): (1, 1024 * 4),
    }
    assert kinds.traffic(NETWORK).kernels == 0


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150.0), ("all-gather", 75.0), ("reduce-scatter", 75.0), ("all-to-all", 75.0)],
)
def test_bytes_that_a_device_sends(kind, sent):
    assert kinds.Collective(kind, "f32", 4, 1, 100).sent == sent


def test_calls_of_cudnn_count_their_products():
    found = kinds.traffic(CUDNN)
    taps = 3 * 8 - 2
    assert found.by_kind("flops") == {"convolutions": 2 * 2 * taps**2 * 4 * 6}
    assert found.by_kind("bytes") == {"convolutions": 2 * (2 * 64 * 4 + 2 * 64 * 6 + 9 * 4 * 6)}


@pytest.mark.parametrize(
    ("type_", "size", "padded"),
    [
        ("bf16[4,192]{1,0:T(8,128)(2,1)}", 4 * 192 * 2, 8 * 256 * 2),
        ("f32[192,4]{0,1:T(8,128)}", 192 * 4 * 4, 8 * 256 * 4),
        ("f32[2,3,576]{2,1,0:T(8,128)}", 2 * 3 * 576 * 4, 2 * 8 * 640 * 4),
        ("f32[384]{0:T(512)}", 384 * 4, 512 * 4),
        ("f32[]{:T(128)}", 4, 512),
        ("pred[10]{0}", 10, 10),
        ("s4[10]{0}", 5, 5),
        ("token[]", 0, 0),
    ],
)
def test_bytes_with_the_padding_of_tiles(type_, size, padded):
    (array,) = hlo.arrays(type_)
    assert (array.size, array.padded) == (size, padded)


def test_metadata_of_kernels_on_lines_of_their_own():
    lines = """custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block": "{1}"
}}, metadata={op_name="jit(f)/jvp(attention)/kernel"}"""
    call = "ROOT %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%x), " + lines
    text = (
        "HloModule jit_f\n\nENTRY %main (x: f32[8,128]) -> f32[8,128] {\n"
        f"  %x = f32[8,128]{{1,0:T(8,128)}} parameter(0)\n  {call}\n}}\n"
    )
    assert kinds.traffic(text).by_kind("bytes") == {"attention": 2 * 8 * 128 * 4}


def test_the_least_time_of_a_kind():
    operations = (
        kinds.Operation("attention", "a", "", 2, flops=100, bytes=1, padded=1),
        kinds.Operation("attention", "b", "", 1, flops=0, bytes=50, padded=60),
        kinds.Operation("other", "c", "", 1, flops=0, bytes=10, padded=10),
    )
    found = kinds.Traffic(operations)
    # 2 * 100 / 10 s of products, 60 / 2 s of traffic, one after the other.
    assert found.seconds_by_kind(10, 2) == {"attention": 20 + 30, "other": 5}
    fused = found.seconds_by_kind(10, 2, {"attention": 1000, "linear layers": 20})
    assert fused == {"linear layers": 2, "attention": 100, "other": 5}


def test_a_program_of_the_cpu():
    def loss(w, x):
        def layer(x, w):
            with jax.named_scope("linear"):
                return jnp.tanh(x @ w), None

        return jax.lax.scan(layer, x, w)[0].sum()

    shapes = jnp.ones((5, 64, 64)), jnp.ones((32, 64))
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    found = kinds.traffic(compiled.as_text())
    # Forward, and both gradients, of five layers.
    assert found.by_kind("flops") == {"linear layers": 3 * 5 * 2 * 32 * 64 * 64}
    weights = 5 * 64 * 64 * 4
    assert 3 * weights < found.bytes < 30 * weights
    assert kinds.collectives(compiled.as_text()) == ()


def test_a_gradient_over_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))
    x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct((128, 128), jnp.float32, sharding=whole)
    step = jax.jit(jax.grad(lambda w, x: jnp.sin(x @ w).sum()), out_shardings=whole)
    (found,) = kinds.collectives(step.lower(w, x).compile().as_text())
    assert (found.kind, found.dtype, found.group) == ("all-reduce", "f32", 8)
    assert (found.count, found.bytes) == (1, 128 * 128 * 4)
