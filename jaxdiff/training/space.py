"""How much room a run's checkpoints and snapshots take."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff.checkpoints.run import KEEP_CHECKPOINTS


@dataclasses.dataclass(frozen=True)
class Space:
    """What a whole run writes, in bytes of the arrays; compressed, those of float32 take 1 % less.

    Attributes:
      checkpoint: of one training state.
      checkpoints: how many there are at most at once: those that are kept, and the one that is
        being written while the oldest is still there.
      snapshot: of the averages at one step.
      snapshots: how many there are in the end.
    """

    checkpoint: int
    checkpoints: int
    snapshot: int
    snapshots: int

    @property
    def total(self):
        """The most that there is at once."""
        return self.checkpoints * self.checkpoint + self.snapshots * self.snapshot


def space(config, template):
    """The Space of a run.

    Args:
      config: a RunConfig.
      template: its State of arrays or jax.ShapeDtypeStruct, as `state_template` makes it.
    """
    training = config.training
    item = jnp.dtype(training.snapshot_dtype).itemsize
    made = math.ceil(training.num_steps / training.checkpoint_every)
    return Space(
        checkpoint=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(template.items())),
        checkpoints=min(made, KEEP_CHECKPOINTS + 1),
        snapshot=sum(x.size * item for x in jax.tree.leaves(template.ema)),
        snapshots=training.num_steps // training.snapshot_every,
    )
