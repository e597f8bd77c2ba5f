"""AdamW with warm-up and annealing, and the warm-up of the average of parameters."""

import jax.numpy as jnp
import optax


def learning_rate(training):
    """Step -> learning rate: linear warm-up, then constant or linear to 0 at anneal_steps."""
    peak, warmup, anneal = training.learning_rate, training.warmup_steps, training.anneal_steps
    main = (
        optax.linear_schedule(peak, 0.0, anneal - warmup)
        if anneal
        else optax.constant_schedule(peak)
    )
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def make_optimizer(training):
    """The optax transformation of a config's section `training`."""
    adamw = optax.adamw(
        learning_rate(training),
        b1=training.beta1,
        b2=training.beta2,
        weight_decay=training.weight_decay,
    )
    if not training.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), adamw)


def ema_decay(decay, step):
    """Decay of the average at the update after `step` updates: min(decay, (1 + t) / (10 + t)).

    The warm-up forgets the initial parameters as soon as there are better ones, so that samples
    of an early EMA are not noise.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
