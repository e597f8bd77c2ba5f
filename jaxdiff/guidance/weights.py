"""Guidance weights over the steps: schedules, and intervals of noise levels.

A weight w of 1 disables its reference. Schedules shape the excess e = w - 1 (Wang et al. 2024,
arXiv:2404.13040), an interval (Kynkäänniemi et al. 2024, arXiv:2404.07724) sets w = 1 outside, and
dynamic CFG (Sadat et al. 2024, arXiv:2310.17347, section 4) alone multiplies w itself. With

    tau = (i + 1/2) / N        0 (noise) -> 1 (clean)

static, linear, invlinear, cosine and sine keep the mean of the excess, V and Lambda too for even N.
The clamped kinds and power-cosine do not. Everything is float64 NumPy, computed once for a job.
"""

import dataclasses

import numpy as np

from jaxdiff.config import ClassifierGuidance
from jaxdiff.guidance.cads import gamma


@dataclasses.dataclass(frozen=True)
class Steps:
    """What weights may depend on.

    Attributes:
      ratio: [N] sigma/alpha of the level that each step starts from.
      time: [N] in [0, 1], 1 is noise: timestep/T on an ADM model's own levels, else 1 - tau.
    """

    ratio: np.ndarray
    time: np.ndarray

    @property
    def tau(self):
        """[N] the share of the steps that have been taken by the middle of each."""
        return (np.arange(len(self.ratio)) + 0.5) / len(self.ratio)


def static(w, steps):
    """The weight w at every step: [N]."""
    return np.full(len(steps.ratio), float(w))


def linear(w, steps):
    """Excess 2 tau e."""
    return 1 + (w - 1) * 2 * steps.tau


def invlinear(w, steps):
    """Excess 2 (1 - tau) e."""
    return 1 + (w - 1) * 2 * (1 - steps.tau)


def cosine(w, steps):
    """Excess (1 - cos(pi tau)) e."""
    return 1 + (w - 1) * (1 - np.cos(np.pi * steps.tau))


def sine(w, steps):
    """Excess (1 + cos(pi tau)) e."""
    return 1 + (w - 1) * (1 + np.cos(np.pi * steps.tau))


def v_shape(w, steps):
    """Excess 2 |1 - 2 tau| e."""
    return 1 + (w - 1) * 2 * np.abs(1 - 2 * steps.tau)


def lambda_shape(w, steps):
    """Excess 2 (1 - |1 - 2 tau|) e."""
    return 1 + (w - 1) * 2 * (1 - np.abs(1 - 2 * steps.tau))


def clamp_linear(w, steps, least):
    """Excess 2 tau e, but at least `least`; a reference that is off stays off."""
    return linear(w, steps) if w == 1 else np.maximum(1 + least, linear(w, steps))


def clamp_cosine(w, steps, least):
    """Excess (1 - cos(pi tau)) e, but at least `least`; a reference that is off stays off."""
    return cosine(w, steps) if w == 1 else np.maximum(1 + least, cosine(w, steps))


def power_cosine(w, steps, power):
    """Excess (1 - cos(pi tau^power)) e / 2 (Gao et al. 2023, arXiv:2303.14389)."""
    return 1 + (w - 1) * (1 - np.cos(np.pi * steps.tau**power)) / 2


def dynamic(w, steps, tau1, tau2):
    """Dynamic CFG: the weight, not its excess, times CADS' gamma; 0 is the reference alone."""
    return w * gamma(steps.time, tau1, tau2)


SHAPES = {
    "static": static,
    "linear": linear,
    "invlinear": invlinear,
    "cosine": cosine,
    "sine": sine,
    "v": v_shape,
    "lambda": lambda_shape,
    "clamp-linear": clamp_linear,
    "clamp-cosine": clamp_cosine,
    "power-cosine": power_cosine,
    "dynamic": dynamic,
}


def weights(spec, steps):
    """The weight of a guidance method at each step: [N] float64, scheduled and gated.

    Args:
      spec: a CFG, ICG, Autoguidance or ClassifierGuidance of jaxdiff.config.
      steps: the Steps of a sampler.

    Returns:
      w, which is 1 where the reference is off; of a ClassifierGuidance k, 0 where it is off.
    """
    if isinstance(spec, ClassifierGuidance):
        return within(static(spec.scale, steps), steps, spec.interval, 0.0)
    values = SHAPES[spec.schedule.shape](spec.weight, steps, *spec.schedule.values)
    return within(values, steps, spec.interval, 1.0)


def within(values, steps, interval, off):
    """`values` [N] at steps whose sigma/alpha is in interval = (low, high], `off` elsewhere.

    An interval of None holds all.
    """
    if interval is None:
        return values
    low, high = interval
    return np.where((low < steps.ratio) & (steps.ratio <= high), values, off)
