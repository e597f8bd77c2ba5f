"""The state of training at one step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.timesteps import LossHistory

IN_A_ROW = 10  # non-finite steps that end a run


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonFiniteSteps:
    """Steps whose loss or gradient was not finite; int32 scalars, or what holds one for each.

    Attributes:
      total: how many there have been.
      in_row: how many the latest ones were, without a finite one between; stays once it is
        IN_A_ROW, so that it is found when it is read later.
      first: the first of those; 0 while the latest step was finite.
    """

    total: Any
    in_row: Any
    first: Any

    @classmethod
    def none(cls):
        """Before the first step."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))

    def after(self, number, is_finite):
        """The counts after step `number`; traced."""
        in_row = jnp.where(is_finite, 0, self.in_row + 1)
        first = jnp.where(is_finite, 0, jnp.where(self.in_row == 0, number, self.first))
        is_over = self.in_row >= IN_A_ROW
        return NonFiniteSteps(
            self.total + ~is_finite,
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
      non_finite: NonFiniteSteps, of this run so far.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: dict[str, Any]
    history: LossHistory | None
    non_finite: NonFiniteSteps

    def items(self):
        """The arrays that a checkpoint holds; the numbers of `non_finite` are in its meta."""
        return {
            "step": {"step": self.step},
            "params": self.params,
            "opt_state": self.opt_state,
            "ema": self.ema,
            **({} if self.history is None else {"history": vars(self.history)}),
        }

    @classmethod
    def from_items(cls, items, non_finite):
        """The state whose `items` these are."""
        return cls(
            step=items["step"]["step"],
            params=items["params"],
            opt_state=items["opt_state"],
            ema=items["ema"],
            history=LossHistory(**items["history"]) if "history" in items else None,
            non_finite=non_finite,
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
