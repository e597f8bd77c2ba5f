"""One training step: a pure function of (state, metrics, batch).

A step is bad if its loss or gradient is not finite. What is not finite in the gradient is then 0,
as Karras et al. 2023 (arXiv:2312.02696) have it; so the optimizer goes on from its moments, and
parameters stay finite. The step is counted, and left out of metrics and of the losses that
timesteps are drawn by.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdiff.data.images import to_float
from jaxdiff.diffusion import timesteps
from jaxdiff.training import augment
from jaxdiff.training.ema import profiles
from jaxdiff.training.state import State

QUARTILES = 4
HUGE = 2.0**64  # the square of this is not finite
COUNTS = {
    "non_finite_steps": "total",
    "non_finite_in_row": "in_row",
}  # metric: field of NonFiniteSteps


def make_step(objective, process, optimizer, config):
    """The step of a run, to be jitted.

    Args:
      objective: an Objective.
      process: what draws noise for a batch.
      optimizer: an optax transformation.
      config: the run's.

    Returns:
      (state, sums, batch) -> (state, sums), where batch is {"image": uint8 [B, H, W, C] or points
      float32 [B, D], "label": int32 [B]} and sums accumulate metrics, see `zero_sums`.
    """
    training = config.training
    shares = profiles(training)

    def mean_loss(params, examples):
        terms, quartile = objective.losses(params, examples)
        unweighted = terms["loss"]
        terms = {name: examples["weight"] * values for name, values in terms.items()}
        return terms["loss"].mean(), (terms, quartile, unweighted)

    loss_and_gradient = jax.value_and_grad(mean_loss, has_aux=True)

    def step(state, sums, batch):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        examples = _draw(key, batch, process, state.history, config)
        parts = _cut(examples, training.accumulate)
        params = objective.constrain(state.params)
        gradient, samples = _accumulate(loss_and_gradient, params, parts)
        terms, quartile, unweighted = samples
        gradient, is_finite = _without_the_infinite(gradient)
        norm = optax.tree.norm(gradient)
        good = is_finite & jnp.isfinite(terms["loss"].sum()) & jnp.isfinite(norm)
        history = state.history
        if history is not None:
            newer = timesteps.update(history, parts["draws"]["t"].ravel(), unweighted)
            history = _choose(good, newer, history)
        updates, opt_state = optimizer.update(gradient, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = {
            profile: optax.incremental_update(params, average, shares[profile](state.step))
            for profile, average in state.ema.items()
        }
        number = state.step + 1
        bad = state.bad.after(number, good)
        newer = {**add_sums(sums, terms, quartile), "grad_norm": sums["grad_norm"] + _one(norm)}
        sums = {**_choose(good, newer, sums), **_counts(bad)}
        return State(number, params, opt_state, ema, history, bad), sums

    return step


def _draw(key, batch, process, history, config):
    """Everything random about a step, one row for each sample, so that a batch can be cut."""
    data_key, label_key, process_key, dropout_key = jax.random.split(key, 4)
    x0 = to_float(batch["image"])
    size = x0.shape[0]
    flip_key, crop_key = jax.random.split(data_key)
    if config.data.augment == "crop_flip":
        x0 = augment.crop(crop_key, x0)
    if config.data.augment in ("flip", "crop_flip"):
        x0 = augment.flip(flip_key, x0)
    label = batch["label"]
    if config.diffusion.label_dropout:
        drop = jax.random.bernoulli(label_key, config.diffusion.label_dropout, (size,))
        label = jnp.where(drop, config.data.num_classes, label)
    low_res = {}
    if config.data.low_res_size:
        low_res["low_res"] = augment.area_downsample(x0, config.data.low_res_size)
    draws, weight = process.draw(process_key, x0.shape), jnp.ones(size)
    if history is not None:
        t, weight = timesteps.draw(history, jax.random.fold_in(process_key, 1), size)
        draws = {**draws, "t": t}
    return {
        **low_res,
        "x0": x0,
        "label": label,
        "draws": draws,
        "weight": weight,
        "dropout": jax.random.split(dropout_key, size),
    }


def _cut(tree, parts):
    """[B, ...] -> [parts, B / parts, ...], every device keeping a share of every part."""

    def cut(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _accumulate(loss_and_gradient, params, parts):
    """The mean gradient over the parts, and what the loss says of all samples, in their order."""

    def add(total, part):
        (_, samples), gradient = loss_and_gradient(params, part)
        return jax.tree.map(jnp.add, total, gradient), samples

    count = parts["label"].shape[0]
    if count == 1:
        part = jax.tree.map(lambda x: x[0], parts)
        (_, samples), gradient = loss_and_gradient(params, part)
        return gradient, samples
    zeros = jax.tree.map(jnp.zeros_like, params)
    total, samples = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda g: g / count, total), jax.tree.map(jnp.ravel, samples)


def _without_the_infinite(gradient):
    """The gradient with 0 for every value that is not finite, and whether all of them were.

    HUGE values count as such: the second moment would never forget one.
    """
    finite = jax.tree.map(lambda g: jnp.abs(g) < HUGE, gradient)
    kept = jax.tree.map(lambda g, is_finite: jnp.where(is_finite, g, 0), gradient, finite)
    return kept, jnp.stack([leaf.all() for leaf in jax.tree.leaves(finite)]).all()


def _choose(condition, a, b):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def zero_sums(terms):
    """Metrics before the first step: {name: [sum, count]} for the terms' names.

    The counts of bad steps are among them, as they are after the latest step: [number, 1].
    """
    names = ["grad_norm", *COUNTS]
    for term in terms:
        names += [term, *(f"{term}_q{quartile}" for quartile in range(QUARTILES))]
    return {name: jnp.zeros(2) for name in names}


def _one(value):
    return jnp.stack([value, 1.0])


def _counts(bad):
    return {name: _one(getattr(bad, field)) for name, field in COUNTS.items()}


def add_sums(sums, terms, quartile):
    """Adds loss terms {name: [B]} to metrics; quartile [B] says which quarter each belongs to."""
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
