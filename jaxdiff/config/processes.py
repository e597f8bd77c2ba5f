"""Settings of noise processes: ADM's and EDM's."""

import dataclasses
from typing import Annotated, Literal

from jaxdiff.config.fields import Range, settings
from jaxdiff.errors import UserError

LEAST_DATA_STD = 1e-6  # where it is stated
LEAST_LINEAR = 20  # timesteps with which the last beta, .02 * 1000 / T, is 1
Share = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Process:
    """What all processes have.

    Attributes:
      from_run: for a classifier: the run that it will guide, whose process it takes over.
      condition_dropout: probability in training that all conditions of a sample are replaced by the
        null condition.
    """

    from_run: str = ""
    condition_dropout: Share = 0.0


@settings(kind="adm", section="diffusion")
class ADM(_Process):
    """ADM's process: discrete variance-preserving noise (Nichol & Dhariwal 2021, arXiv:2102.09672).

    Attributes:
      schedule: noise schedule.
      num_timesteps: T, the number of timesteps.
      rescale_timesteps: whether the network is given t * 1000 / T in place of t.
      prediction: what the network predicts: the noise, the clean sample, or v.
      variance: variance of an ancestral step: `learned_range`: learned, between the small and the
        large one; `learned`: learned without bounds; `fixed_small` and `fixed_large`: the lower and
        the upper bound.
      loss: `hybrid`: L_simple, and for a learned variance T/1000 L_vb; `hybrid_unscaled`: L_simple
        + L_vb; `simple`: L_simple; `vlb`: T L_vb.
      timestep_sampler: how training draws timesteps: uniformly, or in proportion to the root mean
        square of their losses.
    """

    schedule: Literal["cosine", "linear"] = "cosine"
    num_timesteps: Annotated[int, Range(2, 2**20)] = 1000
    rescale_timesteps: bool = False
    prediction: Literal["eps", "x0", "v"] = "eps"
    variance: Literal["learned_range", "learned", "fixed_small", "fixed_large"] = "learned_range"
    loss: Literal["simple", "hybrid", "hybrid_unscaled", "vlb"] = "hybrid"
    timestep_sampler: Literal["uniform", "loss_second_moment"] = "uniform"

    # What a noise process is: a classifier guides only models of the same.
    SAME = ("schedule", "num_timesteps", "rescale_timesteps")

    @property
    def learns_variance(self):
        """Whether the network's output has twice the sample's channels."""
        return self.variance.startswith("learned")

    @property
    def uncertainty(self):
        """Whether the network predicts its own error: never."""
        return False

    def check(self):
        """Raises UserError for settings that contradict each other."""
        if self.loss == "simple" and self.learns_variance:
            raise UserError(
                "diffusion.loss is simple, which does not train the variance that "
                f"diffusion.variance {self.variance} asks for: use hybrid, or fixed_large."
            )
        if self.schedule == "linear" and self.num_timesteps <= LEAST_LINEAR:
            raise UserError(
                f"diffusion.num_timesteps is {self.num_timesteps}: the linear schedule needs more "
                f"than {LEAST_LINEAR}, so that every beta is below 1."
            )


@settings(kind="edm", section="diffusion")
class EDM(_Process):
    """EDM's process: continuous noise levels (Karras et al. 2022, arXiv:2206.00364).

    Attributes:
      p_mean, p_std: training draws noise levels from ln(sigma) ~ N(p_mean, p_std^2).
      data_std: standard deviation of the data; 0: it is measured when the run begins.
      uncertainty: whether weights of the noise levels are learned, as in EDM2.
    """

    # e^20 is 5e8: float32 holds the squares of all noise levels that are drawn.
    p_mean: Annotated[float, Range(-20, 20)] = -1.2
    p_std: Annotated[float, Range(1e-6, 5)] = 1.2
    data_std: Annotated[float, Range(0, 1e6)] = 0.5
    uncertainty: bool = False

    SAME = ()

    @property
    def learns_variance(self):
        """Whether the network's output has twice the sample's channels: never."""
        return False

    def check(self):
        """Raises UserError for a standard deviation that is too small to divide by."""
        if 0 < self.data_std < LEAST_DATA_STD:
            raise UserError(
                f"diffusion.data_std is {self.data_std}: it must be at least {LEAST_DATA_STD}, or "
                "0 to be measured."
            )


Process = ADM | EDM
