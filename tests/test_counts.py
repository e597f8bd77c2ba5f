"""Operations of programs, beside closed forms, counts by hand, and XLA's own."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import counts
from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task
from tests import tiny

NHWC = ("NHWC", "HWIO", "NHWC")


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def flops(function, *arguments, **options):
    return counts.flops_by_kind(jax.make_jaxpr(function)(*arguments), **options)


def test_a_product_of_matrices_is_2mnk():
    assert flops(jnp.matmul, shape(3, 5), shape(5, 7)) == {"linear layers": 2 * 3 * 5 * 7}
    batched = flops(partial(jnp.einsum, "bhnk,bhmk->bhnm"), shape(2, 3, 4, 5), shape(2, 3, 6, 5))
    assert batched == {"attention": 2 * 2 * 3 * 4 * 6 * 5}


@pytest.mark.parametrize(
    ("stride", "low", "high", "dilation", "window_dilation"),
    [(1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (1, 0, 2, 2, 1), (1, 2, 2, 1, 2), (3, 2, 0, 2, 2)],
)
def test_a_convolution_counts_the_taps_that_meet_an_input(
    stride, low, high, dilation, window_dilation
):
    size, window, channels, features, batch = 7, 3, 4, 6, 2
    apply = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride,) * 2,
        padding=((low, high),) * 2,
        lhs_dilation=(dilation,) * 2,
        rhs_dilation=(window_dilation,) * 2,
        dimension_numbers=NHWC,
    )
    arguments = shape(batch, size, size, channels), shape(window, window, channels, features)
    # Convolving ones counts the taps, as those on padding and between elements give 0.
    ones = [jnp.ones((1, *arguments[0].shape[1:3], 1)), jnp.ones((window, window, 1, 1))]
    expected = 2 * batch * channels * features * int(apply(*ones).sum())
    assert flops(apply, *arguments) == {"convolutions": expected}
    gradient = jax.grad(lambda *args: apply(*args).sum(), argnums=(0, 1))
    # Each gradient multiplies every pair that the convolution multiplied, once.
    total = flops(gradient, *arguments)["convolutions"]
    assert 2 * expected <= total <= 3 * expected


def test_grouped_convolutions_read_their_own_channels():
    apply = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=NHWC,
        feature_group_count=2,
    )
    assert flops(apply, shape(1, 5, 5, 4), shape(3, 3, 2, 6)) == {
        "convolutions": 2 * 3 * 3 * 9 * 2 * 6
    }


def test_loops_and_branches():
    x = shape(4, 4)
    once = 2 * 4**3

    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=5)[0]

    def looped(x, stop):
        return jax.lax.fori_loop(0, stop, lambda _, c: c @ c, x)

    def chosen(x, which):
        return jax.lax.cond(which, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops(scanned, x) == {"linear layers": 5 * once}
    assert flops(lambda x: jax.lax.fori_loop(0, 3, lambda _, c: c @ c, x), x) == {
        "linear layers": 3 * once
    }
    assert flops(looped, x, jnp.int32(7), trips=7) == {"linear layers": 7 * once}
    assert flops(chosen, x, True) == {"linear layers": 2 * once}
    assert flops(jax.jit(scanned), x) == {"linear layers": 5 * once}


def test_what_is_computed_again_counts_again():
    def loss(w, x):
        return jnp.sin(jnp.sin(x @ w) @ w).sum()

    x, once = shape(8, 8), 2 * 8**3
    plain = flops(jax.grad(loss), x, x)
    again = flops(jax.grad(jax.checkpoint(loss)), x, x)
    # Forward 2; of the second product both gradients, of the first the weights' alone.
    assert plain == {"linear layers": 5 * once}
    # The second product is computed again too: its sine's derivative needs it.
    assert again == {"linear layers": 7 * once}


def test_all_devices_count_under_shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        lambda x, w: x @ w,
        mesh=mesh,
        in_specs=(jax.P("data"), jax.P()),
        out_specs=jax.P("data"),
    )
    assert flops(split, shape(8, 3), shape(3, 5)) == {"linear layers": 2 * 8 * 3 * 5}


def test_scopes_name_kinds_through_derivatives():
    @jax.custom_vjp
    def norm(x):
        return x @ x

    norm.defvjp(lambda x: (norm(x), x), lambda x, g: (g @ x,))

    def loss(x, w):
        with jax.named_scope("conv"):
            x = x @ w
        with jax.named_scope("group_norm"):
            x = norm(x)
        return x.sum()

    once = 2 * 4**3
    for transform in (lambda f: f, jax.checkpoint, jax.jit):
        found = flops(jax.value_and_grad(transform(loss)), shape(4, 4), shape(4, 4))
        assert found["group norms"] in (2 * once, 3 * once)
        assert found["convolutions"] in (2 * once, 3 * once)
        assert list(found) == ["convolutions", "group norms"]


def test_elementwise_operations_count_one_each():
    def function(x):
        with jax.named_scope("dropout"):
            y = x * 2 + 1
        return jnp.exp(y).reshape(2, 6).sum(0)

    found = counts.elementwise_by_kind(jax.make_jaxpr(function)(shape(3, 4)))
    assert found == {"dropout": 2 * 12, "other": 12 + 12}


def test_a_training_step_counts_as_xla_says():
    config = tiny.config(
        model__dropout=0.1, model__attention_resolutions=(8,), model__num_res_blocks=1
    )
    task = Task.of(config)
    batch = {"x": jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8), "cond": {}}
    for each in config.model.conditions:
        batch["cond"][each.name] = jax.ShapeDtypeStruct((16,), jnp.int32)
    state = jax.eval_shape(task.init)
    sums = jax.eval_shape(lambda: zero_sums(task.objective.terms))
    step = jax.jit(summing_step(task)).trace(state, sums, batch)
    cost = step.lower().cost_analysis()
    ours = [
        sum(count(step.jaxpr).values())
        for count in (counts.flops_by_kind, counts.elementwise_by_kind)
    ]
    theirs = cost["flops"] + cost.get("transcendentals", 0)
    assert sum(ours) == pytest.approx(theirs, rel=0.02)
    assert 0.5 * theirs < ours[0] < theirs


def test_taps_by_hand():
    # Of 5 inputs and a window of 3 with a margin of 1, the two ends lose one each.
    assert counts.taps(5, 3, 5, low=1) == 13
    by_hand = sum(0 <= o * 2 + k - 1 < 5 for o, k in itertools.product(range(3), range(3)))
    assert counts.taps(5, 3, 3, stride=2, low=1) == by_hand
