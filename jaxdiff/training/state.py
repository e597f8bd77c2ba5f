"""All that a training run is at one step, and how it is laid out on the devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.timesteps import LossHistory

IN_A_ROW = 10  # bad steps that end a run


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonFiniteSteps:
    """Steps whose loss or gradient was not finite; int32 scalars, or what holds one for each.

    Attributes:
      total: how many there have been.
      in_row: how many were the latest, without a good one between; stays once it is IN_A_ROW, so
        that whoever reads it later finds it.
      first: the first of those; 0 while the latest step was good.
    """

    total: Any
    in_row: Any
    first: Any

    @classmethod
    def none(cls):
        """Before the first step."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))

    def after(self, number, good):
        """The counts after step `number`, which was good or not; traced."""
        in_row = jnp.where(good, 0, self.in_row + 1)
        first = jnp.where(good, 0, jnp.where(self.in_row == 0, number, self.first))
        is_over = self.in_row >= IN_A_ROW
        return NonFiniteSteps(
            self.total + ~good,
            jnp.where(is_over, self.in_row, in_row),
            jnp.where(is_over, self.first, first),
        )


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
      bad: NonFiniteSteps, the steps whose loss or gradient was not finite.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: dict[str, Any]
    history: LossHistory | None
    bad: NonFiniteSteps

    def items(self):
        """The arrays that a checkpoint holds; the numbers of `bad` are in its meta."""
        return {
            "step": {"step": self.step},
            "params": self.params,
            "opt_state": self.opt_state,
            "ema": self.ema,
            **({} if self.history is None else {"history": vars(self.history)}),
        }

    @classmethod
    def from_items(cls, items, bad):
        """The state that `items` was taken of; `bad` where it belongs."""
        return cls(
            step=items["step"]["step"],
            params=items["params"],
            opt_state=items["opt_state"],
            ema=items["ema"],
            history=LossHistory(**items["history"]) if "history" in items else None,
            bad=bad,
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
        bad=NonFiniteSteps.none(),
    )


@jax.jit
def _all_finite(leaves):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def all_finite(tree):
    """Whether every value of a tree of arrays is; one program, whose result is waited for."""
    return bool(_all_finite(jax.tree.leaves(tree)))


def state_bytes(state):
    """{"parameters": bytes, "optimizer": ..., "EMA": ...} of a state, or of its shapes."""

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    parts = {"parameters": state.params, "optimizer": state.opt_state, "EMA": state.ema}
    return {name: size(tree) for name, tree in parts.items()}
