import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, to_devices
from jaxdiff.training.ema import warm_decay
from jaxdiff.training.objective import denoising
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import State, init_state, state_bytes
from jaxdiff.training.step import make_step, means, zero_sums
from tests import tiny


def batch(number, size=16):
    random = np.random.RandomState(number)
    return {
        "image": random.randint(0, 256, (size, 8, 8, 1)).astype(np.uint8),
        "label": random.randint(0, 10, size).astype(np.int32),
    }


def run(config, mesh, steps=4, batches=batch):
    """Trains from scratch; returns the states, the fresh one first, and each step's metrics."""
    network, process = factory.network(config), factory.process(config)
    optimizer = make_optimizer(config.training)

    def init():
        profiles, key = [str(config.training.ema)], jax.random.key(9)
        return init_state(network, optimizer, profiles, key, factory.loss_history(config))

    shardings = parameter_sharding(mesh, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=shardings)()
    objective = denoising(network, process, config.model.dropout)
    step = jax.jit(make_step(objective, process, optimizer, config))
    states, history = [state], []
    for number in range(steps):
        state, sums = step(state, zero_sums(process.terms), to_devices(batches(number), mesh))
        states.append(state)
        history.append(means(jax.device_get(sums)))
    return states, history


@pytest.fixture(scope="module")
def reference():
    return run(tiny.config(), make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_eight_devices_give_the_losses_of_one(fsdp, reference):
    config = tiny.config()
    states, history = run(config, make_mesh(fsdp))
    for name in ("loss", "mse", "vb", "grad_norm"):
        np.testing.assert_allclose(
            [metrics[name] for metrics in history],
            [metrics[name] for metrics in reference[1]],
            rtol=2e-4,
        )
    largest = max(jax.tree.leaves(states[-1].params), key=lambda leaf: leaf.size)
    assert largest.addressable_shards[0].data.size == largest.size // fsdp


@pytest.mark.parametrize(
    "change", [{"training__accumulate": 4}, {"training__remat": True}], ids=["parts", "remat"]
)
def test_saving_memory_does_not_change_the_numbers(change, reference, one_device):
    _, history = run(tiny.config(**change), one_device)
    for got, expected in zip(history, reference[1], strict=True):
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4)


def test_the_metrics_of_quartiles_make_up_the_whole(reference):
    for metrics in reference[1]:
        quartiles = [metrics[f"mse_q{q}"] for q in range(4) if f"mse_q{q}" in metrics]
        assert min(quartiles) <= metrics["mse"] <= max(quartiles)
        np.testing.assert_allclose(metrics["loss"], metrics["mse"] + metrics["vb"], rtol=1e-5)


def test_it_learns(one_device):
    _, history = run(tiny.config(), one_device, steps=30, batches=lambda number: batch(0))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_the_average_follows_its_recursion(one_device):
    config = tiny.config(training__ema=0.15)
    states, _ = run(config, one_device, steps=3)
    average = states[0].params["out"]["kernel"]
    for number, state in enumerate(states[1:]):
        decay = float(warm_decay(0.15, number))
        average = decay * average + (1 - decay) * state.params["out"]["kernel"]
    np.testing.assert_allclose(
        states[3].ema["0.15"]["out"]["kernel"], average, rtol=1e-5, atol=1e-8
    )


def test_labels_are_dropped_at_the_rate_asked_for():
    from jaxdiff.training.step import _draw

    config = tiny.config(diffusion__label_dropout=0.3)
    process = factory.process(config)
    many = {"image": np.zeros((20_000, 1, 1, 1), np.uint8), "label": np.arange(20_000) % 10}
    label = _draw(jax.random.key(0), many, process, None, config)["label"]
    dropped = label == 10
    assert abs(float(dropped.mean()) - 0.3) < 0.015
    np.testing.assert_array_equal(label[~dropped], many["label"][~dropped])


def test_flips_mirror_about_half_of_the_images():
    from jaxdiff.training.step import _draw

    config = tiny.config(data__augment="flip")
    image = np.tile(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1), (2000, 1, 1, 1))
    rows = {"image": image, "label": np.zeros(2000, np.int32)}
    x0 = _draw(jax.random.key(0), rows, factory.process(config), None, config)["x0"][:, 0, :, 0]
    flipped = x0[:, 0] == 1
    assert abs(float(flipped.mean()) - 0.5) < 0.05
    np.testing.assert_array_equal(x0[:, 0], -x0[:, 1])


def test_bytes_are_counted():
    config = tiny.config()
    network = factory.network(config)
    shapes = jax.eval_shape(
        lambda: init_state(network, make_optimizer(config.training), ["0.9"], jax.random.key(0))
    )
    count = 4 * sum(leaf.size for leaf in jax.tree.leaves(network.shapes))
    sizes = state_bytes(shapes)
    assert sizes["parameters"] == sizes["EMA"] == count
    assert 0 <= sizes["optimizer"] - 2 * count < 64  # two moments, and two counters


def test_timesteps_are_drawn_by_their_losses_wherever_the_batch_lies(one_device):
    """On two devices and in parts: the history is what the losses were, sample by sample."""
    fields = {"diffusion__timestep_sampler": "loss_second_moment"}
    alone, history = run(tiny.config(**fields), one_device)
    spread, again = run(
        tiny.config(**fields, training__accumulate=2), make_mesh(1, jax.devices()[:2])
    )
    a, b = alone[-1].history, spread[-1].history
    assert int(a.counts.sum()) == 4 * 16
    np.testing.assert_array_equal(a.counts, b.counts)
    # Losses of one batch may stand in another order.
    np.testing.assert_allclose(np.sort(a.losses, 1), np.sort(b.losses, 1), rtol=5e-4)
    np.testing.assert_allclose(history[-1]["loss"], again[-1]["loss"], rtol=2e-4)


def test_the_history_is_saved_and_restored():
    config = tiny.config(diffusion__timestep_sampler="loss_second_moment")
    network, optimizer = factory.network(config), make_optimizer(config.training)
    history = dataclasses.replace(factory.loss_history(config), counts=jnp.arange(20))
    state = init_state(network, optimizer, ["0.9"], jax.random.key(0), history)
    again = State.from_items(state.items(), state.bad)
    np.testing.assert_array_equal(again.history.counts, np.arange(20))
    assert jax.tree.structure(again) == jax.tree.structure(state)
