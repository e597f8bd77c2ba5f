"""What `sample.py` was asked for, and the texts of its flags as values."""

import dataclasses
import math

from jaxdiff import cli, factory
from jaxdiff.config import RANGES
from jaxdiff.errors import UserError
from jaxdiff.numbers import whole

MOST_APG_ETA = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What `sample.py` was asked for.

    Attributes:
      model: reference to the network, such as runs/digits or runs/digits@500.
      out: folder of the results.
      num_samples: None for 64, or for as many as there are latents.
      batch_size: how many at once over all devices.
      seed: of everything random; sample n of a seed is always the same.
      classes: such as "0,3,5-9"; sample n has the n-th of them, cyclically. None: all.
      sampler, steps, eta, clip, sigma_min, sigma_max, rho: None for the run's own, config section
        `sampling`.
      churn: such as "40" or "40,.05,50,1.003": S_churn, S_min, S_max, S_noise. None: the run's.
      guide: references to networks to be pushed away from.
      weight: w of each guide told its label.
      guide_null: w of each guide told no label.
      cfg: w of the network itself told no label; None for none.
      icg: tell it a random label instead.
      schedule: such as "linear" or "clamp-cosine,2"; one for all references, or one for each.
      interval: such as ".19,1.61" in sigma/alpha; one for all that guides, or one for each.
      cads: "TAU1,TAU2,SCALE[,PSI]".
      apg: "ETA,MOMENTUM,NORM".
      rescale: phi, in [0, 1].
      together: one batch for all conditions of a network; None: where that is faster.
      classifier: reference to a noisy classifier that guides, or None.
      classifier_scale: how hard it guides; at 0 it is not evaluated. None: 1.
      latents: file to start from instead of noise, with a label for each sample.
      low_res: file of images that a model of super-resolution enlarges, with their labels.
    """

    model: str
    out: str
    num_samples: int | None = None
    batch_size: int = 128
    seed: int = 0
    classes: str | None = None
    sampler: str | None = None
    steps: str | None = None
    eta: float | None = None
    churn: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None
    clip: bool | None = None
    guide: tuple[str, ...] = ()
    weight: tuple[float, ...] = ()
    guide_null: tuple[float, ...] = ()
    cfg: float | None = None
    icg: bool = False
    schedule: tuple[str, ...] = ()
    interval: tuple[str, ...] = ()
    cads: str | None = None
    apg: str | None = None
    rescale: float | None = None
    together: bool | None = None
    classifier: str | None = None
    classifier_scale: float | None = None
    latents: str | None = None
    low_res: str | None = None

    @property
    def scale(self):
        """How hard a classifier guides."""
        return 1.0 if self.classifier_scale is None else self.classifier_scale


def parse_numbers(flag, text, names, optional=0):
    """The numbers of a text such as "0.6,0.9,0.1".

    Args:
      flag: it was given to, for messages.
      text: numbers, separated by commas; `inf` is one.
      names: what they are, in order.
      optional: how many of the last may be left out.

    Raises:
      UserError: for another count of numbers, or what is none.
    """
    values = [cli.number(flag, part) for part in text.split(",")]
    if not len(names) - optional <= len(values) <= len(names) or any(map(math.isnan, values)):
        needed, rest = names[: len(names) - optional], names[len(names) - optional :]
        form = ",".join(needed) + "".join(f"[,{name}" for name in rest) + "]" * optional
        raise UserError(f"--{flag} {text} cannot be read: give {form}.")
    return values


def parse_classes(text, num_classes):
    """The classes that a text such as "0,3,5-9" names; all of the model's if it is None.

    Raises:
      UserError: for a text that cannot be read, or a class that the model does not have.
    """
    if text is None:
        return tuple(range(num_classes))
    if not num_classes:
        raise UserError(
            f"The model was trained without labels, so --classes {text} has no meaning."
        )
    classes = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        ends = [low, high] if dash else [low, low]
        if not all(end.isascii() and end.isdecimal() for end in ends):
            raise UserError(f"--classes {text} cannot be read: write numbers, as in 0,3,5-9.")
        for end in ends:
            if whole(end, num_classes - 1) is None:
                raise UserError(
                    f"The model has no class {end}: its classes are 0 to {num_classes - 1}."
                )
        classes += range(whole(ends[0]), whole(ends[1]) + 1)
    if not classes:
        raise UserError(f"--classes {text} names no class: write numbers, as in 0,3,5-9.")
    return tuple(classes)


def parse_schedule(text):
    """The function (w, steps) -> weights [N] that a text such as "clamp-cosine,2" names.

    Raises:
      UserError: for a schedule that there is not, or values that it does not take.
    """
    name, *values = text.split(",")
    if name not in factory.WEIGHTS:
        raise UserError(
            f"--schedule {text} is unknown: the schedules are {', '.join(factory.WEIGHTS)}."
        )
    function, names = factory.WEIGHTS[name]
    if len(values) != len(names):
        form = ",".join([name, *names])
        raise UserError(f"--schedule {text} cannot be read: give {form}.")
    numbers = parse_numbers("schedule", ",".join(values), names) if names else []
    if name == "dynamic":
        _check_taus("schedule", text, *numbers)
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"--schedule {text} cannot be met: give finite numbers.")
    if name == "power-cosine" and numbers[0] <= 0:
        raise UserError(f"--schedule {text} has no shape: the power must be positive.")
    return lambda w, steps: function(w, steps, *numbers)


def parse_interval(text):
    """(low, high) of a text such as ".19,1.61".

    Raises:
      UserError: unless 0 <= low < high.
    """
    low, high = parse_numbers("interval", text, ("LO", "HI"))
    if not 0 <= low < high:
        raise UserError(
            f"--interval {text} is empty: LO must be less than HI, in sigma/alpha from 0 up."
        )
    return low, high


def parse_cads(text):
    """(tau1, tau2, scale, psi) of a text such as ".6,.9,.1"; psi is 1 if it is left out.

    Raises:
      UserError: for values out of their ranges.
    """
    tau1, tau2, scale, *rest = parse_numbers("cads", text, ("TAU1", "TAU2", "SCALE", "PSI"), 1)
    _check_taus("cads", text, tau1, tau2)
    psi = rest[0] if rest else 1.0
    if not (0 <= scale < math.inf and 0 <= psi <= 1):
        raise UserError(f"--cads {text} is out of range: SCALE is 0 or more, PSI from 0 to 1.")
    return tau1, tau2, scale, psi


def _check_taus(flag, text, tau1, tau2):
    if not 0 <= tau1 <= tau2 <= 1:
        raise UserError(
            f"--{flag} {text} is out of order: 0 <= TAU1 <= TAU2 <= 1 must hold, where time 1 is "
            "noise."
        )


def parse_apg(text):
    """(eta, momentum, norm) of a text such as "0,-.5,10".

    Raises:
      UserError: for values out of their ranges.
    """
    eta, momentum, norm = parse_numbers("apg", text, ("ETA", "MOMENTUM", "NORM"))
    if not (abs(eta) <= MOST_APG_ETA and -1 < momentum < 1 and norm > 0):
        raise UserError(
            f"--apg {text} is out of range: ETA must be from {-MOST_APG_ETA} to {MOST_APG_ETA}, "
            "MOMENTUM between -1 and 1, and NORM is positive, or inf."
        )
    return eta, momentum, norm


# Fields of the section `sampling` that only one sampler reads, switched off.
_NO_OWN_OPTIONS = {"eta": 0.0, "churn": ()}


def sampling_config(config, request):
    """The run's section `sampling`, with what the request sets instead.

    An option that only another sampler reads is dropped when the sampler is changed.

    Raises:
      UserError: for values out of range, or that the sampler does not read.
    """
    sampling = config.sampling.copy_and_resolve_references()
    if request.sampler and request.sampler != sampling.sampler:
        sampling.update(_NO_OWN_OPTIONS)
    on_grid = [
        name for name in ("sigma_min", "sigma_max", "rho") if getattr(request, name) is not None
    ]
    for name in ("sampler", "steps", "eta", "clip", "sigma_min", "sigma_max", "rho"):
        value = getattr(request, name)
        if value is not None:
            sampling[name] = value
    if request.churn is not None:
        names = ("S", "MIN", "MAX", "NOISE")
        sampling.churn = tuple(parse_numbers("churn", request.churn, names, 3))
    for name, owner in (("eta", "ddim"), ("churn", "heun")):
        if (value := getattr(request, name)) is not None and sampling.sampler != owner:
            raise UserError(
                f"--{name} {value} has no meaning for the sampler {sampling.sampler}: use {owner}, "
                "or leave it out."
            )
    if on_grid and factory.takes_timesteps(config, sampling):
        raise UserError(
            f"--{on_grid[0]} has no meaning for the sampler {sampling.sampler}, which goes through "
            "the model's own timesteps: use heun or dpmpp, or leave it out."
        )
    if request.clip and config.model.kind == "toy":
        raise UserError("--clip confines images, and the model makes points: leave it out.")
    for name in ("eta", "sigma_min", "sigma_max", "rho"):
        bounds = RANGES[f"sampling.{name}"]
        if getattr(request, name) is not None and sampling[name] not in bounds:
            raise UserError(f"--{name} is {sampling[name]}: it must be {bounds}.")
    return sampling
