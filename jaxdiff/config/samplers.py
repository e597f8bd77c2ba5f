"""Settings of samplers: `Heun(steps=18)`.

A sampler from elsewhere is a class of settings with `build()`, which returns an object such as
jaxdiff.samplers.heun.HeunSampler: grid, init, step, last and evaluations.
"""

import dataclasses
import math
from typing import Annotated

from jaxdiff.config.fields import Range, settings
from jaxdiff.errors import UserError

MOST_STEPS = 100_000
Steps = Annotated[int, Range(1, MOST_STEPS)]
Sigma = Annotated[float, Range(1e-9, 1e9)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OnSigmas:
    """A sampler that visits the levels of EDM's grid (Karras et al. 2022, equation 5).

    Attributes:
      sigma_min: the lowest noise level sigma/alpha of the grid, before 0; raised to the lowest of
        the process.
      sigma_max: the highest noise level, from which sampling starts; lowered to the highest of the
        process.
      rho: spacing of the levels between; the larger it is, the more levels are low.
      clip: whether the predicted x0 is clipped to [-1, 1].
    """

    sigma_min: Sigma = 0.002
    sigma_max: Sigma = 80.0
    rho: Annotated[float, Range(1e-3, 1e3)] = 7.0
    clip: bool = True

    def check(self):
        """Raises UserError for a grid without levels."""
        if not self.sigma_min < self.sigma_max:
            raise UserError(
                f"{self.section}.sigma_min is {self.sigma_min}: it must be below sigma_max "
                f"{self.sigma_max}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OnTimesteps(_OnSigmas):
    """A sampler that visits the timesteps of ADM's process, respaced, and EDM's grid elsewhere.

    Attributes:
      steps: number of steps; on ADM's process also a respacing: `ddim25`, or `25,50` for 25 steps
        in the cleaner half of the timesteps and 50 in the other.
    """

    steps: Steps | str = 250


@settings(kind="ddpm")
class DDPM(_OnTimesteps):
    """Ancestral sampling (Ho et al. 2020, arXiv:2006.11239)."""


@settings(kind="ddim")
class DDIM(_OnTimesteps):
    """DDIM (Song et al. 2021, arXiv:2010.02502).

    Attributes:
      eta: amount of noise added in a step: 0 is deterministic, 1 ancestral.
    """

    eta: Annotated[float, Range(0, 1)] = 0.0


@settings(kind="heun")
class Heun(_OnSigmas):
    """EDM's second-order sampler, deterministic or with churn (Karras et al. 2022, Algorithm 2).

    Attributes:
      steps: N, the number of steps; they take 2N - 1 network evaluations.
      churn: S_churn, the amount of noise that all steps together add; 0: none.
      churn_min, churn_max: S_tmin and S_tmax, the noise levels between which it is added.
      churn_noise: S_noise, its standard deviation.
    """

    steps: Steps = 18
    churn: Annotated[float, Range(0, 1e6)] = 0.0
    churn_min: Annotated[float, Range(0, math.inf)] = 0.0
    churn_max: Annotated[float, Range(0, math.inf)] = math.inf
    churn_noise: Annotated[float, Range(0, 100)] = 1.0

    def check(self):
        """Raises UserError for an empty range of levels."""
        super().check()
        if not self.churn_min <= self.churn_max:
            raise UserError(
                f"Heun.churn_min is {self.churn_min}: it must be at most churn_max "
                f"{self.churn_max}."
            )


@settings(kind="dpmpp")
class DPMpp(_OnSigmas):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095).

    Attributes:
      steps: N, the number of steps and of network evaluations.
    """

    steps: Steps = 20


Sampler = DDPM | DDIM | Heun | DPMpp
