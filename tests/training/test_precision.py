"""What a training step in bfloat16 computes in which type, read from its program."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task
from tests import tiny

LONG = 1000  # elements of a sum that bfloat16's 8 bits would lose


@pytest.fixture(scope="module")
def equations():
    """[(primitive, dtypes of its operands, shapes of them, shape of the result)] of a step."""
    config = tiny.config(
        training__dtype="bfloat16",
        training__batch_size=32,
        model__channels=32,
        model__channel_mult=(1, 2),
        model__num_res_blocks=1,
        model__attention_resolutions=(8, 4),
        model__dropout=0.1,
        diffusion__condition_dropout=0.1,
    )
    task = Task.of(config)
    batch = {"x": jnp.zeros((32, 8, 8, 1), jnp.uint8), "cond": {"label": jnp.zeros(32, jnp.int32)}}
    sums = zero_sums(task.objective.terms)
    program = jax.make_jaxpr(summing_step(task))(jax.eval_shape(task.init), sums, batch)
    return [
        (
            each.primitive.name,
            [var.aval.dtype for var in each.invars],
            [var.aval.shape for var in each.invars],
            each.outvars[0].aval.shape,
        )
        for each in _all_equations(program.jaxpr)
    ]


def _all_equations(jaxpr):
    for each in jaxpr.eqns:
        yield each
        for inner in jaxprs_in_params(each.params):
            yield from _all_equations(inner)


def test_no_long_sum_is_accumulated_in_bfloat16(equations):
    long = [
        (shapes[0], result)
        for name, dtypes, shapes, result in equations
        if name in ("reduce_sum", "cumsum", "reduce_window_sum")
        and dtypes[0] == jnp.bfloat16
        and math.prod(shapes[0]) > LONG * math.prod(result)
    ]
    assert long == []
    assert any(name == "reduce_sum" for name, *_ in equations)


def test_convolutions_are_in_bfloat16_but_for_the_last(equations):
    convolutions = [
        (set(dtypes), shapes)
        for name, dtypes, shapes, _ in equations
        if name == "conv_general_dilated"
    ]
    assert len(convolutions) > 20
    others = [shapes for dtypes, shapes in convolutions if dtypes != {jnp.dtype(jnp.bfloat16)}]
    # The output convolution and its two gradients.
    assert len(others) == 3


def test_products_of_images_are_in_bfloat16(equations):
    # Group norms multiply tables [2, B, C] of sums in float32; what is larger is of all positions.
    table = 2 * 32 * 128
    images = [
        (set(dtypes), shapes)
        for name, dtypes, shapes, _ in equations
        if name == "dot_general" and max(map(math.prod, shapes)) > table
    ]
    assert len(images) > 20
    assert [each for each in images if each[0] != {jnp.dtype(jnp.bfloat16)}] == []
