"""Estimates from one block of each kind."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from jaxdiff import counts
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, placed
from jaxdiff.plan import kinds, plans, programs, quick
from jaxdiff.training.compiled import state_template
from jaxdiff.training.task import Task
from tests import tiny


def flops(config, one):
    """Of the pieces of a config's step, each as often as it counts."""
    total = Counter()
    parts = quick.pieces(config, state_template(Task.of(config), one), 1, one)
    for part in parts:
        jaxpr = jax.make_jaxpr(part.function)(*part.shapes).jaxpr
        # Without what no result needs, as a compiler leaves it out.
        jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        found = counts.flops_by_kind(jaxpr)
        total.update({kind: part.count * number for kind, number in found.items()})
    return dict(total), parts


@pytest.mark.parametrize("remat", [False, True])
def test_the_pieces_of_a_step_compute_what_the_step_does(remat, one_device):
    config = tiny.config(
        model__attention_resolutions=(8,),
        model__dropout=0.1,
        training__remat=remat,
        training__accumulate=2,
    )
    ours, parts = flops(config, one_device)
    (step,) = programs.training(config, one_device)
    (whole,) = plans.counted((step,))
    for kind in ("attention", "linear layers", "convolutions"):
        assert ours[kind] == pytest.approx(whole[kind], rel=0.02), kind
    # Blocks: with attention, without, and with twice the channels to read; and the two others.
    assert len(parts) == 3 * (2 if remat else 1) + 2


def test_operations_count_as_often_as_their_pieces():
    def operation(path):
        return kinds.Operation("other", "a", path, 2, flops=0, bytes=10, padded=10)

    paths = ("jit(f)/piece1/add", "jit(f)/transpose(jvp(piece0))/mul", "")
    found = quick.weighted(kinds.Traffic(tuple(map(operation, paths))), [3, 5])
    assert [each.times for each in found.operations] == [10, 6, 2]


def test_what_training_exchanges():
    mesh = make_mesh(2, jax.devices()[:8])
    shapes = {"w": jax.ShapeDtypeStruct((256, 128), jnp.float32)}
    shapes["b"] = jax.ShapeDtypeStruct((128,), jnp.float32)
    params = placed(shapes, parameter_sharding(mesh, shapes))
    config = tiny.config(training__dtype="bfloat16", training__accumulate=2)
    found = {(c.kind, c.group): c for c in quick.exchanged(config, params, mesh)}
    weights = 256 * 128
    assert found["all-gather", 2].bytes == 2 * 2 * 2 * weights
    assert found["reduce-scatter", 2].bytes == 2 * 4 * weights
    assert found["all-reduce", 4].bytes == 2 * 4 * weights // 2
    assert found["all-reduce", 8].bytes == 2 * 4 * 128
    alone = make_mesh(1, jax.devices()[:1])
    assert quick.exchanged(config, placed(shapes, parameter_sharding(alone, shapes)), alone) == ()


def test_a_given_gradient_is_what_the_optimizer_sees():
    params, gradient = {"w": jnp.zeros(3)}, {"w": jnp.array([1.0, -2.0, 3.0])}
    found = jax.grad(quick._with_this_gradient)(params, gradient)
    np.testing.assert_array_equal(found["w"], gradient["w"])
