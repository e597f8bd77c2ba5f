"""Losses and gradients that are not finite: in a step of a network of five numbers, and in runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from jaxdiff import factory
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.training import loop
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import IN_A_ROW, NonFiniteSteps
from jaxdiff.training.step import means, summing_step, zero_sums
from jaxdiff.training.task import Task
from tests.training import events, linear

pytestmark = pytest.mark.usefixtures("alone")

NAN, INF = float("nan"), float("inf")
# The gradient of `a` in each kind of batch, which its labels say.
GRADIENTS = np.array([[1, 2, 3], [NAN] * 3, [INF, 2, -INF], [1, 1e25, 3]], np.float32)
GOOD, ALL, SOME, HUGE = range(4)


class Five:
    """Parameters a [3] and b [2]; those of a training step have b at most 10."""

    def init(self, key):
        del key
        return {"a": jnp.ones(3), "b": jnp.array([2.0, 30.0])}

    def constrain(self, params):
        return {**params, "b": jnp.minimum(params["b"], 10)}


def losses(params, examples):
    slopes = jnp.asarray(GRADIENTS)[examples["cond"]["label"]]
    loss = slopes @ params["a"] + (params["b"] ** 2).sum()
    return {"loss": loss}, examples["draws"]["t"] // 5


@pytest.fixture(scope="module")
def taken():
    """(a jitted step: (state, sums, kind) -> (state, sums), a state, sums, the optimizer)."""
    config = linear.config(
        training__batch_size=4,
        training__clip_norm=0.5,
        training__warmup_steps=0,
        diffusion__timestep_sampler="loss_second_moment",
    )
    optimizer = make_optimizer(config.training)
    process, codec = factory.process(config.diffusion), factory.codec(config.model.codec)
    task = Task(config, Five(), process, codec, Objective(("loss",), losses), optimizer)
    step = jax.jit(summing_step(task))

    def take(state, sums, kind):
        cond = {"label": np.full(4, kind, np.int32)}
        return step(state, sums, {"x": np.zeros((4, 1, 1, 1), np.uint8), "cond": cond})

    return take, task.init(), zero_sums(("loss",)), optimizer


def numbers(non_finite):
    return tuple(int(v) for v in (non_finite.total, non_finite.in_row, non_finite.first))


@pytest.mark.parametrize(
    ("kind", "a"),
    [(ALL, [0, 0, 0]), (SOME, [0, 2, 0]), (HUGE, [1, 0, 3])],
    ids=["all", "some", "huge"],
)
def test_what_is_not_finite_is_zero_to_the_optimizer(kind, a, taken):
    take, state, sums, optimizer = taken
    for _ in range(3):
        state, sums = take(state, sums, GOOD)
    assert state.params["b"].max() < 10.01, "constrained before the update"
    params = Five().constrain(state.params)
    gradient = {"a": jnp.array(a, jnp.float32), "b": 2 * params["b"]}
    updates, opt_state = optimizer.update(gradient, state.opt_state, params)
    expected = optax.apply_updates(params, updates)
    after, _ = take(state, sums, kind)
    for got, wanted in ((after.params, expected), (after.opt_state, opt_state)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, wanted)
    assert numbers(after.non_finite) == (1, 1, 4)
    assert np.isfinite(after.ema["0.995"]["a"]).all()


def test_they_are_counted_and_left_out_of_metrics_and_history(taken):
    take, state, sums, _ = taken
    seen = []
    for kind in (GOOD, ALL, SOME, GOOD, HUGE):
        state, sums = take(state, sums, kind)
        seen.append(numbers(state.non_finite))
    assert seen == [(0, 0, 0), (1, 1, 2), (2, 2, 2), (2, 0, 0), (3, 1, 5)]
    assert np.isfinite(state.history.losses).all()
    assert int(state.history.counts.sum()) == 2 * 4
    scalars = means(jax.device_get(sums))
    assert (scalars["non_finite_steps"], scalars["non_finite_in_row"]) == (3, 1)
    assert sums["loss"][1] == 2 * 4
    assert sums["grad_norm"][1] == 2
    assert all(np.isfinite(value) for value in scalars.values())


@pytest.mark.parametrize("count", [IN_A_ROW - 1, IN_A_ROW])
def test_a_finite_step_ends_a_row_that_is_not_over(count):
    non_finite = NonFiniteSteps.none()
    for number in range(1, 31):
        non_finite = non_finite.after(number, jnp.asarray(not 5 <= number < 5 + count))
    assert numbers(non_finite) == ((9, 0, 0) if count < IN_A_ROW else (10, 10, 5))


@pytest.fixture
def poisoned(monkeypatch):
    """Trains on data that are not numbers in some steps."""
    plain = loop.batches

    def train(folder, steps, **overrides):
        def batches(source, size, seed, first, *others):
            inner = plain(source, size, seed, first, *others)
            try:
                for number, batch in enumerate(inner, first + 1):
                    scale = np.float32(NAN if number in steps else 1)
                    yield {**batch, "x": scale * batch["x"]}
            finally:
                inner.close()

        monkeypatch.setattr(loop, "batches", batches)
        fields = {"snapshot_every": 1000, **overrides}
        fields = {f"training__{name}": value for name, value in fields.items()}
        loop.train(linear.config(data__floats=True, **fields), folder)
        return Run(epath.Path(folder))

    return train


def test_a_run_continues_after_nine_and_says_so(poisoned, tmp_path, capfd):
    run = poisoned(tmp_path, {3, *range(6, 15)}, num_steps=10)
    assert "6 non-finite steps" in capfd.readouterr().err
    counts = {"total": 6, "in_row": 5, "first": 6}
    assert checkpointer.read_meta(run.checkpoints, 10)["non_finite"] == counts
    # The row continues where the run does, and is not one of ten.
    poisoned(tmp_path, range(6, 15), num_steps=20)
    counts = {"total": 10, "in_row": 0, "first": 0}
    assert checkpointer.read_meta(run.checkpoints, 20)["non_finite"] == counts
    scalars = events.read(run.tensorboard)
    assert scalars["non_finite_steps"] == {5: 1, 10: 6, 15: 10, 20: 10}
    # There was no finite step from 6 to 10.
    assert scalars["loss"].keys() == {5, 15, 20}
    assert np.isfinite(list(scalars["loss"].values())).all()


@pytest.mark.parametrize(
    ("overrides", "checkpoints", "snapshots"),
    [
        ({"snapshot_every": 5}, [10], [5, 10]),
        # Found with the metrics, or at the end, though there are finite steps after the row.
        ({"checkpoint_every": 21}, [], []),
        ({"checkpoint_every": 1000, "log_every": 1000}, [], []),
    ],
    ids=["saving", "metrics", "end"],
)
def test_ten_in_a_row_end_a_run_and_nothing_is_kept(
    overrides, checkpoints, snapshots, poisoned, tmp_path
):
    where = "checkpoint is .*/10:" if checkpoints else "no checkpoint yet"
    with pytest.raises(UserError, match=f"10 steps in a row, from step 6 on, .*{where}"):
        poisoned(tmp_path, range(6, 16), num_steps=25, **overrides)
    run = Run(epath.Path(tmp_path))
    assert checkpointer.complete_steps(run.checkpoints) == checkpoints
    assert checkpointer.complete_steps(run.snapshots) == snapshots
