"""All that a training run is at one step, and how it is laid out on the devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.timesteps import LossHistory


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A training run between two steps.

    Attributes:
      step: int32, how many steps have been taken.
      params: nested dict of float32 arrays.
      opt_state: of the optimizer.
      ema: {profile: averaged params}.
      history: LossHistory of the timesteps, where they are drawn by it; else None.
      first_bad: int32, the first step whose loss or gradient was not finite; 0 if none was.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: dict[str, Any]
    history: LossHistory | None
    first_bad: jax.Array

    def items(self):
        """What a checkpoint holds; `first_bad` is 0 in all of them."""
        return {
            "step": {"step": self.step},
            "params": self.params,
            "opt_state": self.opt_state,
            "ema": self.ema,
            **({} if self.history is None else {"history": vars(self.history)}),
        }

    @classmethod
    def from_items(cls, items, first_bad):
        """The state that `items` was taken of; first_bad is an int32 zero where it belongs."""
        return cls(
            step=items["step"]["step"],
            params=items["params"],
            opt_state=items["opt_state"],
            ema=items["ema"],
            history=LossHistory(**items["history"]) if "history" in items else None,
            first_bad=first_bad,
        )


def init_state(network, optimizer, profiles, key, history=None):
    """The state before the first step; a pure function, to be jitted or traced."""
    params = network.init(key)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema={name: jax.tree.map(jnp.copy, params) for name in profiles},
        history=history,
        first_bad=jnp.zeros((), jnp.int32),
    )


def state_bytes(state):
    """{"parameters": bytes, "optimizer": ..., "EMA": ...} of a state, or of its shapes."""

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    parts = {"parameters": state.params, "optimizer": state.opt_state, "EMA": state.ema}
    return {name: size(tree) for name, tree in parts.items()}
