import jax.numpy as jnp
import numpy as np

from jaxdiff.training.optimizer import learning_rate, make_optimizer
from tests import tiny


def rates(steps, **fields):
    fields = {f"training__{name}": value for name, value in fields.items()}
    schedule = learning_rate(tiny.config(**fields).training)
    return [float(schedule(step)) for step in steps]


def test_warm_up_is_linear_and_then_constant():
    got = rates([0, 5, 10, 11, 10_000], learning_rate=2.0, warmup_steps=10)
    np.testing.assert_allclose(got, [0, 1, 2, 2, 2])


def test_annealing_is_linear_to_zero_at_its_step():
    got = rates(
        [0, 2, 4, 7, 10, 99], learning_rate=3.0, warmup_steps=4, anneal_steps=10, num_steps=10
    )
    np.testing.assert_allclose(got, [0, 1.5, 3, 1.5, 0, 0], atol=1e-6)


def test_without_warm_up_the_first_step_counts():
    assert rates([0], learning_rate=2.0, warmup_steps=0) == [2.0]


def test_clipping_is_by_the_global_norm():
    optimizer = make_optimizer(
        tiny.config(training__warmup_steps=0, training__beta1=0.0, training__clip_norm=1.0).training
    )
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    first_moment = state[1][0].mu
    np.testing.assert_allclose(first_moment["a"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(first_moment["b"], [0.8], rtol=1e-6)


def test_the_inverse_square_root_counts_the_steps_done():
    got = rates([0, 7, 8, 9, 32, 800], learning_rate=2.0, warmup_steps=0, inverse_sqrt_after=8)
    np.testing.assert_allclose(got, [2, 2, 2, 2 / (9 / 8) ** 0.5, 1, 0.2], rtol=1e-6)


def test_the_inverse_square_root_counts_warm_up_as_well():
    got = rates([0, 2, 4, 8, 32], learning_rate=2.0, warmup_steps=4, inverse_sqrt_after=8)
    np.testing.assert_allclose(got, [0, 1, 2, 2, 1], rtol=1e-6)
