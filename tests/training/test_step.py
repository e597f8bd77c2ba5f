"""The training step on one device and on several, of a network that compiles at once."""

import jax
import numpy as np
import pytest

from jaxdiff.config import Image, Label
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, to_devices
from jaxdiff.training.averages import warm_decay
from jaxdiff.training.state import State, state_bytes
from jaxdiff.training.step import _draw, make_step, means, summing_step, zero_sums
from jaxdiff.training.task import Task
from tests.training import linear
from tests.training.linear import batch

FIELDS = {"diffusion__timestep_sampler": "loss_second_moment", "model__dropout": 0.2}


@pytest.fixture(scope="module")
def reference():
    """(states, the first one initial; metrics) of four steps that are called by hand, then 30."""
    init, step = make_step(linear.config(**FIELDS))
    states, history = [init()], []
    for number in [0, 1, 2, 3, *[0] * 30]:
        before = jax.tree.map(np.array, states[-1])  # the state itself is given away
        after, metrics = step(states[-1], batch(number))
        states[-1:] = [before, after]
        history.append({name: float(value) for name, value in metrics.items()})
    return states, history


@pytest.fixture(scope="module")
def spread():
    """(state, metrics) after four steps of the loop's, on eight devices and in two parts."""
    task, mesh = Task.of(linear.config(**FIELDS, training__accumulate=2)), make_mesh(fsdp=2)
    shardings = parameter_sharding(mesh, jax.eval_shape(task.init))
    state = jax.jit(task.init, out_shardings=shardings)()
    step, history = jax.jit(summing_step(task)), []
    for number in range(4):
        sums = zero_sums(task.objective.terms)
        state, sums = step(state, sums, to_devices(batch(number), mesh))
        history.append(means(jax.device_get(sums)))
    return state, history


def test_eight_devices_and_parts_give_the_losses_of_one(reference, spread):
    state, history = spread
    for got, expected in zip(history, reference[1], strict=False):
        for name in ("loss", "mse", "vb", "grad_norm"):
            np.testing.assert_allclose(got[name], expected[name], rtol=2e-4)
        quartiles = [got[f"mse_q{q}"] for q in range(4) if f"mse_q{q}" in got]
        assert min(quartiles) <= got["mse"] <= max(quartiles)
        np.testing.assert_allclose(got["loss"], got["mse"] + got["vb"], rtol=1e-5)
    largest = max(jax.tree.leaves(state.params), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size == largest.size // 2


def test_the_history_of_timesteps_does_not_depend_on_where_the_batch_is(reference, spread):
    a, b = reference[0][4].history, spread[0].history
    assert int(a.counts.sum()) == 4 * 16
    np.testing.assert_array_equal(a.counts, b.counts)
    # Losses of one batch may be in another order.
    np.testing.assert_allclose(np.sort(a.losses, 1), np.sort(b.losses, 1), rtol=5e-4)
    restored = State.from_items(spread[0].items(), spread[0].non_finite)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, spread[0]))


def test_it_learns(reference):
    history = reference[1]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_the_average_follows_its_recursion(reference):
    states = reference[0]
    average = states[0].params["last"]["kernel"]
    for number, state in enumerate(states[1:4]):
        decay = float(warm_decay(0.995, number))
        average = decay * average + (1 - decay) * state.params["last"]["kernel"]
    np.testing.assert_allclose(
        states[3].ema["0.995"]["last"]["kernel"], average, rtol=1e-5, atol=1e-8
    )


def drawn(config, examples):
    """A function that returns what a step draws for a batch."""
    task = Task.of(config)
    return lambda: _draw(task, jax.random.key(0), examples, None)


def test_conditions_are_dropped_together_at_their_rate():
    draw = drawn(linear.config(diffusion__condition_dropout=0.3), batch(0, 20_000))
    drop = jax.jit(lambda: draw()["drop"])()
    assert abs(float(drop.mean()) - 0.3) < 0.015
    draw = drawn(linear.config(diffusion__condition_dropout=0.0), batch(0))
    assert "drop" not in jax.eval_shape(draw)


def test_a_map_is_flipped_with_its_image():
    conditions = (Image(1), Label(linear.CLASSES))
    config = linear.config(data__augment="flip", model__conditions=conditions)
    ramp = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    label = np.arange(2000, dtype=np.int32) % 3
    cond = {"image": np.float32(np.tile(ramp, (2000, 1, 1, 1)) / 127.5 - 1), "label": label}
    draw = drawn(config, {"x": np.tile(ramp, (2000, 2, 1, 1)), "cond": cond})
    x0, cond = jax.jit(lambda: (draw()["x0"][:, 0, :, 0], draw()["cond"]))()
    np.testing.assert_allclose(x0[:, 0], -x0[:, 1], rtol=1e-6)
    assert abs(float((x0[:, 0] > 0).mean()) - 0.5) < 0.05
    np.testing.assert_allclose(cond["image"][:, 0, :, 0], x0, rtol=1e-6)
    np.testing.assert_array_equal(cond["label"], label)


def test_bytes_are_counted():
    task = Task.of(linear.config())
    count = 4 * sum(leaf.size for leaf in jax.tree.leaves(task.network.shapes))
    sizes = state_bytes(jax.eval_shape(task.init))
    assert sizes["parameters"] == sizes["EMA"] == count
    assert 0 <= sizes["optimizer"] - 2 * count < 64  # two moments, and two counters
