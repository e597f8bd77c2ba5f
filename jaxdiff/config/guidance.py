"""Settings of guidance: references, their weights, and the noise levels at which they apply.

    D = R( D_main + sum_i (w_i - 1) * U(D_main - D_i),  D_main );     g = k * grad_x log p(y | x)

Each of CFG, ICG and Autoguidance is one reference D_i with its weight w_i; ClassifierGuidance is g;
APG is U; CADS anneals the condition. docs/guidance.md has the papers.
"""

import math
from typing import Annotated, Any, Literal

from jaxdiff.config.fields import Range, settings
from jaxdiff.errors import UserError

Weight = Annotated[float, Range(-1e6, 1e6)]
Unit = Annotated[float, Range(0, 1)]
GUIDES = ("guide", "classifier")  # fields of guidance that hold a network
Interval = Annotated[tuple[float, ...], Range(0, math.inf)] | None
# Shapes of a weight over the steps, and what values each takes.
SHAPES = {
    "static": (),
    "linear": (),
    "invlinear": (),
    "cosine": (),
    "sine": (),
    "v": (),
    "lambda": (),
    "clamp-linear": ("least",),
    "clamp-cosine": ("least",),
    "power-cosine": ("power",),
    "dynamic": ("tau1", "tau2"),
}


@settings(kind="schedule", positional=True)
class Schedule:
    """The shape of a guidance weight over the steps (Wang et al. 2024, arXiv:2404.13040).

    Attributes:
      shape: name of the shape, such as `linear`; docs/guidance.md has the equations.
      values: parameters of the shape: C of clamp-linear and clamp-cosine, the power of
        power-cosine, tau1 and tau2 of dynamic.
    """

    shape: Literal[*SHAPES] = "static"
    values: Annotated[tuple[float, ...], Range(-1e6, 1e6)] = ()

    def check(self):
        """Raises UserError for values that the shape does not take."""
        names = SHAPES[self.shape]
        if len(self.values) != len(names):
            wanted = ", ".join(names) or "no values"
            raise UserError(f"The schedule {self.shape} has {self.values}: it takes {wanted}.")
        if self.shape == "power-cosine" and self.values[0] <= 0:
            raise UserError(
                f"The schedule power-cosine has {self.values[0]}: give a positive power."
            )
        if self.shape == "dynamic":
            check_taus("The schedule dynamic", *self.values)


def check_taus(name, tau1, tau2):
    """Raises UserError unless 0 <= tau1 <= tau2 <= 1."""
    if not 0 <= tau1 <= tau2 <= 1:
        raise UserError(
            f"{name} has tau1 {tau1} and tau2 {tau2}: 0 <= tau1 <= tau2 <= 1 must hold, where time "
            "1 is noise."
        )


class _Gated:
    """Guidance at some noise levels alone (Kynkaanniemi et al. 2024, arXiv:2404.07724).

    Attributes:
      interval: (low, high) in sigma/alpha: guidance is applied at noise levels in (low, high];
        None: at all levels.
    """

    interval: Interval = None

    def check(self):
        """Raises UserError for an interval that holds nothing."""
        if self.interval is not None and not (
            len(self.interval) == 2 and self.interval[0] < self.interval[1]
        ):
            raise UserError(
                f"{self.section}.interval is {self.interval}: it must be (low, high) with low "
                "below high, in sigma/alpha from 0 up."
            )


@settings(kind="cfg", positional=True)
class CFG(_Gated):
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

    The reference is the network itself under the null condition.

    Attributes:
      weight: guidance weight w; 1 disables it.
      schedule: how the weight changes over the steps.
    """

    weight: Weight
    interval: Interval = None
    schedule: Schedule = Schedule()


@settings(kind="icg", positional=True)
class ICG(_Gated):
    """Independent condition guidance (Sadat et al. 2024, arXiv:2407.02687).

    The reference is the network itself conditioned on a random label, drawn at each step.

    Attributes:
      weight: guidance weight w; 1 disables it.
      schedule: how the weight changes over the steps.
    """

    weight: Weight
    interval: Interval = None
    schedule: Schedule = Schedule()


@settings(kind="autoguidance", positional=True)
class Autoguidance(_Gated):
    """Autoguidance (Karras et al. 2024, arXiv:2406.02507).

    The reference is a weaker network: smaller, or less trained.

    Attributes:
      guide: the weaker network: a TrainedModel, or a reference such as "runs/a@500:ema=0.1".
      weight: guidance weight w; 1 disables it.
      null: whether the guide is evaluated under the null condition.
      schedule: how the weight changes over the steps.
    """

    guide: Any
    weight: Weight
    null: bool = False
    interval: Interval = None
    schedule: Schedule = Schedule()


@settings(kind="classifier_guidance", positional=True)
class ClassifierGuidance(_Gated):
    """Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233).

    Attributes:
      classifier: a classifier of noisy images: a TrainedModel, or a reference such as
        "runs/classifier".
      scale: scale k of the gradient; 0 disables it.
    """

    classifier: Any
    scale: Weight = 1.0
    interval: Interval = None


@settings(kind="apg", positional=True)
class APG:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416).

    Attributes:
      eta: factor of the component of the difference that is parallel to the prediction.
      momentum: momentum of the running average of differences; negative in the paper.
      norm: largest norm of the difference; longer ones are scaled down to it.
    """

    eta: Annotated[float, Range(-1000, 1000)] = 0.0
    momentum: Annotated[float, Range(-1, 1, above=True, below=True)] = -0.5
    norm: Annotated[float, Range(0, math.inf, above=True)] = math.inf


@settings(kind="cads", positional=True)
class CADS:
    """Condition-annealed sampling (Sadat et al. 2024, arXiv:2310.17347).

    Attributes:
      tau1: time up to which the condition is unchanged; time 1 is noise.
      tau2: time from which on the condition is noise alone.
      scale: s, the standard deviation of the noise.
      mix: psi, the share of the result that has the mean and standard deviation of the condition.
    """

    tau1: Unit
    tau2: Unit
    scale: Annotated[float, Range(0, 1e6)]
    mix: Unit = 1.0

    def check(self):
        """Raises UserError for times out of order."""
        check_taus("CADS", self.tau1, self.tau2)


Guidance = CFG | ICG | Autoguidance | ClassifierGuidance
