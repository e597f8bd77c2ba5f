"""One training step: a pure function of (state, metrics, batch).

A step is finite if its loss and gradient are. What is not finite in the gradient is replaced by 0,
as Karras et al. 2023 (arXiv:2312.02696) do; so the optimizer continues from its moments, and the
parameters stay finite. A step that is not finite is counted, and left out of the metrics and of
the losses that timesteps are drawn by.

In bfloat16 the devices sum the gradients of weights in bfloat16, as the products of the backward
pass give them, and those of biases and norms in float32; from there on all is float32. Sums in
float32 would move twice as much (1.2 GB instead of .6 for 296M parameters) to keep bits that each
device has rounded off already.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdiff.config import Image
from jaxdiff.diffusion import timesteps
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.training.augment import augmented
from jaxdiff.training.averages import profiles
from jaxdiff.training.state import State
from jaxdiff.training.task import Task

QUARTILES = 4
HUGE = 2.0**64  # the square of this is not finite
COUNTS = {
    "non_finite_steps": "total",
    "non_finite_in_row": "in_row",
}  # metric: field of NonFiniteSteps


def make_step(config):
    """A training step to call by hand, on one device.

        init, step = make_step(config)
        state = init()
        state, metrics = step(state, {"x": images, "cond": {"label": labels}})

    Args:
      config: a RunConfig.

    Returns:
      init: () -> State, the same in every call.
      step: (State, batch) -> (State, metrics). batch: x uint8 [B, H, W, C] and an array [B, ...]
        for each of the model's conditions. metrics: {"loss": float32, "grad_norm": float32, ...};
        NaN if the step was not finite. The State that is given cannot be used afterwards.
    """
    task = Task.of(config, make_mesh(devices=jax.local_devices()[:1]))
    summed = summing_step(task)
    names = [*task.objective.terms, "grad_norm"]

    def step(state, batch):
        state, sums = summed(state, zero_sums(task.objective.terms), batch)
        return state, {name: sums[name][0] / sums[name][1] for name in names}

    return jax.jit(task.init), jax.jit(step, donate_argnums=0)


def summing_step(task):
    """The step of a run, to be jitted.

    Args:
      task: a Task.

    Returns:
      (state, sums, batch) -> (state, sums), where batch is {"x": uint8 [B, H, W, C] or float
      [B, ...], "cond": {name: [B, ...]}} and sums accumulate metrics, see `zero_sums`.
    """
    training = task.config.training
    shares = profiles(training)

    def mean_loss(params, examples):
        terms, quartile = task.objective.losses(params, examples)
        unweighted = terms["loss"]
        terms = {name: examples["weight"] * values for name, values in terms.items()}
        return terms["loss"].mean(), (terms, quartile, unweighted)

    loss_and_gradient = jax.value_and_grad(mean_loss, has_aux=True)

    def step(state, sums, batch):
        key = jax.random.fold_in(jax.random.key(task.config.seed), state.step)
        parts = _cut(_draw(task, key, batch, state.history), training.accumulate)
        params = task.network.constrain(state.params)
        gradient, (terms, quartile, unweighted) = _accumulate(loss_and_gradient, params, parts)
        # One pass over the gradient: its norm is finite only if all of it is, and less than HUGE.
        with jax.named_scope("optimizer"):
            norm = optax.tree.norm(gradient)
        is_finite = jnp.isfinite(terms["loss"].sum()) & jnp.isfinite(norm)
        with jax.named_scope("optimizer"):
            gradient = _without_the_infinite(gradient)
        history = state.history
        if history is not None:
            newer = timesteps.update(history, parts["draws"]["t"].ravel(), unweighted)
            history = _choose(is_finite, newer, history)
        with jax.named_scope("optimizer"):
            updates, opt_state = task.optimizer.update(gradient, state.opt_state, params)
            params = optax.apply_updates(params, updates)
        with jax.named_scope("averages"):
            ema = {
                profile: optax.incremental_update(params, average, shares[profile](state.step))
                for profile, average in state.ema.items()
            }
        number = state.step + 1
        non_finite = state.non_finite.after(number, is_finite)
        newer = {**add_sums(sums, terms, quartile), "grad_norm": sums["grad_norm"] + _one(norm)}
        sums = {**_choose(is_finite, newer, sums), **_counts(non_finite)}
        return State(number, params, opt_state, ema, history, non_finite), sums

    return step


def _draw(task, key, batch, history):
    """Everything random about a step, one row for each sample, so that a batch can be cut."""
    config, cond = task.config, batch["cond"]
    data_key, drop_key, process_key, dropout_key = jax.random.split(key, 4)
    maps = [each.name for each in config.model.conditions if isinstance(each, Image)]
    x, *changed = augmented(
        config.data.augment, data_key, [batch["x"], *(cond[name] for name in maps)]
    )
    x0 = task.codec.encode(x, jax.random.fold_in(data_key, 2))
    size = x0.shape[0]
    draws, weight = task.process.draw(process_key, x0.shape), jnp.ones(size)
    if history is not None:
        t, weight = timesteps.draw(history, jax.random.fold_in(process_key, 1), size)
        draws = {**draws, "t": t}
    examples = {
        "x0": x0,
        "cond": {**cond, **dict(zip(maps, changed, strict=True))},
        "draws": draws,
        "weight": weight,
        "dropout": jax.random.split(dropout_key, size),
    }
    if rate := config.diffusion.condition_dropout:
        examples["drop"] = jax.random.bernoulli(drop_key, rate, (size,))
    return examples


def _cut(tree, parts):
    """[B, ...] -> [parts, B / parts, ...], every device keeping a share of every part."""

    def cut(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _accumulate(loss_and_gradient, params, parts):
    """The mean gradient over the parts, and what the loss gives for all samples, in their order."""

    def add(total, part):
        (_, samples), gradient = loss_and_gradient(params, part)
        return jax.tree.map(jnp.add, total, gradient), samples

    count = parts["x0"].shape[0]
    if count == 1:
        part = jax.tree.map(lambda x: x[0], parts)
        (_, samples), gradient = loss_and_gradient(params, part)
        return gradient, samples
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, samples = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda g: g / count, total), jax.tree.map(jnp.ravel, samples)


def _without_the_infinite(gradient):
    """The gradient with 0 for every value that is not finite.

    HUGE values count as such: the second moment would never forget one.
    """
    return jax.tree.map(lambda g: jnp.where(jnp.abs(g) < HUGE, g, 0), gradient)


def _choose(condition, a, b):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def zero_sums(terms):
    """Metrics before the first step: {name: [sum, count]} for the terms' names.

    The counts of non-finite steps are among them, as they are after the latest step: [number, 1].
    """
    names = ["grad_norm", *COUNTS]
    for term in terms:
        names += [term, *(f"{term}_q{quartile}" for quartile in range(QUARTILES))]
    return {name: jnp.zeros(2) for name in names}


def _one(value):
    return jnp.stack([value, 1.0])


def _counts(non_finite):
    return {name: _one(getattr(non_finite, field)) for name, field in COUNTS.items()}


def add_sums(sums, terms, quartile):
    """Adds loss terms {name: [B]} to metrics; quartile [B] is the quarter that each belongs to."""
    added = {name: jnp.zeros(2) for name in sums}
    for name, values in terms.items():
        added[name] = jnp.stack([values.sum(), values.size])
        for q in range(QUARTILES):
            inside = quartile == q
            chosen = jnp.where(inside, values, 0)
            added[f"{name}_q{q}"] = jnp.stack([chosen.sum(), inside.sum()])
    return jax.tree.map(jnp.add, sums, added)


def means(sums):
    """Host values of the metrics: {name: mean}, without those that nothing fell into."""
    return {name: float(total / count) for name, (total, count) in sums.items() if count}
