"""AdamW, and how its learning rate changes."""

import jax.numpy as jnp
import optax


def learning_rate(training):
    """Step -> learning rate, of the number of steps done before it.

    After a linear warm-up it is constant, or falls linearly to 0 at anneal_steps, or as Karras et
    al. 2023 (arXiv:2312.02696, Eq. 67) have it with t_ref = inverse_sqrt_after, t from the start:

        peak / sqrt(max(t / t_ref, 1))
    """
    peak, warmup, anneal = training.learning_rate, training.warmup_steps, training.anneal_steps
    reference = training.inverse_sqrt_after
    if reference:

        def main(step):
            return peak / jnp.sqrt(jnp.maximum((warmup + step) / reference, 1))

    elif anneal:
        main = optax.linear_schedule(peak, 0.0, anneal - warmup)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    top = main(0)  # Less than the peak where the fall begins within the warm-up.
    return optax.join_schedules([optax.linear_schedule(0.0, top, warmup), main], [warmup])


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
