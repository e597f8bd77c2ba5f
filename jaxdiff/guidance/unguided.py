"""No guidance: D = D_main(x, s, c). The simplest of the guidances that the sampling loop takes."""

import dataclasses

from jaxdiff.diffusion.denoiser import Condition, Denoiser


@dataclasses.dataclass(frozen=True)
class Unguided:
    """The main network alone.

    Attributes:
      denoiser: the main network's.
      condition: what it is told, the same at every step.
    """

    denoiser: Denoiser
    condition: Condition

    def init(self, shape):
        """State carried from step to step for samples of `shape` [B, ...]: none."""
        del shape
        return ()

    def conditions(self, i, keys):
        """What the networks are told at step i; drawn once a step from keys [B]."""
        del i, keys
        return self.condition

    def denoise(self, x, level, state, conditions):
        """Returns a Prediction and the next state."""
        return self.denoiser(x, level, conditions), state
