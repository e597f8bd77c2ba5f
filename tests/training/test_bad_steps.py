"""Losses and gradients that are not finite: in a step of a network of five numbers, and in runs."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import factory
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import loop
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import IN_A_ROW, NonFiniteSteps, init_state
from jaxdiff.training.step import make_step, means, zero_sums
from tests import tiny
from tests.training import events
from tests.training.test_edm_runs import short

NAN, INF = float("nan"), float("inf")
# The gradient of `a` in each kind of batch, told by its labels.
GRADIENTS = np.array([[1, 2, 3], [NAN] * 3, [INF, 2, -INF], [1, 1e25, 3]], np.float32)
GOOD, ALL, SOME, HUGE = range(4)


class Five:
    """Parameters a [3] and b [2]."""

    def init(self, key):
        del key
        return {"a": jnp.ones(3), "b": jnp.array([2.0, 3.0])}


def losses(params, examples):
    slopes = jnp.asarray(GRADIENTS)[examples["label"]]
    loss = slopes @ params["a"] + (params["b"] ** 2).sum()
    return {"loss": loss}, examples["draws"]["t"] // 5


@lru_cache  # compiles
def start(**overrides):
    """(a jitted step: (state, sums, kind) -> (state, sums), a state, sums, the optimizer)."""
    fields = {"training__batch_size": 4, "diffusion__label_dropout": 0.0, **overrides}
    config = tiny.config(**fields)
    optimizer, objective = (
        make_optimizer(config.training),
        Objective(("loss",), losses, lambda p: p),
    )
    state = init_state(
        Five(), optimizer, ["0.995"], jax.random.key(0), factory.loss_history(config)
    )
    step = jax.jit(make_step(objective, factory.process(config), optimizer, config))

    def take(state, sums, kind):
        batch = {"image": np.zeros((4, 1, 1, 1), np.uint8), "label": np.full(4, kind, np.int32)}
        return step(state, sums, batch)

    return take, state, zero_sums(("loss",)), optimizer


def numbers(bad):
    return tuple(int(v) for v in (bad.total, bad.in_row, bad.first))


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "a"),
    [(ALL, [0, 0, 0]), (SOME, [0, 2, 0]), (HUGE, [1, 0, 3])],
    ids=["all", "some", "huge"],
)
def test_what_is_not_finite_is_zero_to_the_optimizer(kind, a, clip_norm):
    take, state, sums, optimizer = start(training__clip_norm=clip_norm, training__warmup_steps=0)
    for _ in range(3):
        state, sums = take(state, sums, GOOD)
    gradient = {"a": jnp.array(a, jnp.float32), "b": 2 * state.params["b"]}
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    expected = optax.apply_updates(state.params, updates)
    after, _ = take(state, sums, kind)
    for got, wanted in ((after.params, expected), (after.opt_state, opt_state)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, wanted)
    assert numbers(after.bad) == (1, 1, 4)
    assert np.isfinite(after.ema["0.995"]["a"]).all()


def test_bad_steps_are_counted_and_left_out_of_metrics_and_history():
    take, state, sums, _ = start(diffusion__timestep_sampler="loss_second_moment")
    seen = []
    for kind in (GOOD, ALL, SOME, GOOD, HUGE):
        state, sums = take(state, sums, kind)
        seen.append(numbers(state.bad))
    assert seen == [(0, 0, 0), (1, 1, 2), (2, 2, 2), (2, 0, 0), (3, 1, 5)]
    assert np.isfinite(state.history.losses).all()
    assert int(state.history.counts.sum()) == 2 * 4
    scalars = means(jax.device_get(sums))
    assert (scalars["non_finite_steps"], scalars["non_finite_in_row"]) == (3, 1)
    assert sums["loss"][1] == 2 * 4
    assert sums["grad_norm"][1] == 2
    assert all(np.isfinite(value) for value in scalars.values())


@pytest.mark.parametrize("count", [IN_A_ROW - 1, IN_A_ROW])
def test_a_good_step_ends_a_row_that_is_not_over(count):
    bad = NonFiniteSteps.none()
    for number in range(1, 31):
        bad = bad.after(number, jnp.asarray(not 5 <= number < 5 + count))
    assert numbers(bad) == ((9, 0, 0) if count < IN_A_ROW else (10, 10, 5))


@pytest.fixture
def poisoned(monkeypatch):
    """Trains the toy on one device, the points of some steps not being numbers."""
    everything, plain = mesh_lib.make_mesh, loop.batches
    monkeypatch.setattr(loop, "make_mesh", lambda fsdp: everything(fsdp, jax.devices()[:1]))

    def train(folder, steps, **overrides):
        def batches(source, size, seed, first, workers):
            inner = plain(source, size, seed, first, workers)
            try:
                for number, batch in enumerate(inner, first + 1):
                    scale = NAN if number in steps else 1
                    yield {**batch, "image": np.float32(scale) * batch["image"]}
            finally:
                inner.close()

        monkeypatch.setattr(loop, "batches", batches)
        fields = {"preview_every": 1000, "power_ema": (0.05,), "snapshot_every": 1000}
        config = short(**{f"training.{name}": v for name, v in {**fields, **overrides}.items()})
        loop.train(config, folder)

    return train


def test_a_run_goes_on_after_nine_bad_steps_and_says_so(poisoned, tmp_path, capfd):
    poisoned(tmp_path, {3, *range(6, 15)}, num_steps=10)
    assert "6 bad steps" in capfd.readouterr().err
    run = Run(tmp_path)
    assert checkpointer.read_meta(run.checkpoints, 10)["bad"] == {
        "total": 6,
        "in_row": 5,
        "first": 6,
    }
    # The row goes on where the run does, and is not one of ten.
    poisoned(tmp_path, range(6, 15), num_steps=20)
    assert checkpointer.read_meta(run.checkpoints, 20)["bad"] == {
        "total": 10,
        "in_row": 0,
        "first": 0,
    }
    scalars = events.read(run.tensorboard)
    assert scalars["non_finite_steps"] == {5: 1, 10: 6, 15: 10, 20: 10}
    # There was no good step from 6 to 10.
    assert scalars["loss"].keys() == {5, 15, 20}
    assert np.isfinite(list(scalars["loss"].values())).all()


@pytest.mark.parametrize(
    ("overrides", "checkpoints", "snapshots"),
    [
        ({"snapshot_every": 5}, [10], [5, 10]),
        # Found with the metrics, or at the end, though there are good steps after the row.
        ({"checkpoint_every": 21}, [], []),
        ({"checkpoint_every": 1000, "log_every": 1000}, [], []),
    ],
    ids=["saving", "metrics", "end"],
)
def test_ten_bad_steps_in_a_row_end_a_run_and_nothing_is_kept(
    overrides, checkpoints, snapshots, poisoned, tmp_path
):
    where = "the last good checkpoint is .*/10:" if checkpoints else "there was no checkpoint yet:"
    with pytest.raises(UserError, match=f"10 steps in a row, from step 6 on, .* stopped; {where}"):
        poisoned(tmp_path, range(6, 16), num_steps=25, **overrides)
    run = Run(tmp_path)
    assert checkpointer.complete_steps(run.checkpoints) == checkpoints
    assert checkpointer.complete_steps(run.snapshots) == snapshots


def test_checkpoints_without_counts_can_be_continued(poisoned, tmp_path, monkeypatch):
    plain = loop.Store.save
    with monkeypatch.context() as patch:
        patch.setattr(
            loop.Store,
            "save",
            lambda self, step, items, meta: plain(
                self, step, items, {n: v for n, v in meta.items() if n != "bad"}
            ),
        )
        poisoned(tmp_path, (), num_steps=10)
    poisoned(tmp_path, (), num_steps=12)
    assert checkpointer.read_meta(Run(tmp_path).checkpoints, 12)["bad"]["total"] == 0
