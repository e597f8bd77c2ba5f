"""What a config is refused for: its fields, the range of each value, and what contradicts.

Imports no JAX, so that command lines answer quickly.
"""

import dataclasses
import difflib

import numpy as np
from ml_collections import ConfigDict

from jaxdiff.diffusion import schedules
from jaxdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; each end belongs to it unless `above` or `below` is set."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value):
        is_high_enough = self.low < value if self.above else self.low <= value
        return is_high_enough and (value < self.high if self.below else value <= self.high)

    def __str__(self):
        low = f"{'above' if self.above else 'at least'} {self.low}"
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


SAMPLERS = ("ddpm", "ddim", "heun", "dpmpp")
STEPS = 2**31 - 1

CHOICES = {
    "data.channels": (1, 3),
    "data.fit": ("crop", "pad"),
    "data.augment": ("none", "flip", "crop_flip"),
    "model.kind": ("unet", "classifier", "toy"),
    "model.pool": ("attention", "adaptive", "spatial", "spatial_v2"),
    "diffusion.process": ("adm", "edm"),
    "diffusion.schedule": ("cosine", "linear"),
    "diffusion.prediction": ("eps", "x0", "v"),
    "diffusion.variance": ("learned_range", "learned", "fixed_small", "fixed_large"),
    "diffusion.loss": ("simple", "hybrid", "hybrid_unscaled", "vlb"),
    "diffusion.timestep_sampler": ("uniform", "loss_second_moment"),
    "training.dtype": ("float32", "bfloat16"),
    "training.snapshot_dtype": ("float32", "bfloat16"),
    "sampling.sampler": SAMPLERS,
}

RANGES = {
    "seed": Range(0, 2**31 - 1),
    "data.image_size": Range(1, 2**14),
    "data.num_classes": Range(0, 2**24),
    "data.low_res_size": Range(0, 2**14),
    "data.workers": Range(0, 2**10),
    "model.channels": Range(1, 2**14),
    "model.num_res_blocks": Range(1, 2**8),
    "model.head_channels": Range(1, 2**14),
    "model.num_heads": Range(0, 2**14),
    "model.num_heads_upsample": Range(0, 2**14),
    "model.dropout": Range(0, 1, below=True),
    "model.initial_gain": Range(-1e3, 1e3),
    "diffusion.num_timesteps": Range(2, 2**20),
    "diffusion.label_dropout": Range(0, 1, below=True),  # at 1 no label would ever be seen
    # e^20 is 5e8: float32 holds the squares of all noise levels that are drawn.
    "diffusion.p_mean": Range(-20, 20),
    "diffusion.p_std": Range(1e-6, 5),
    "diffusion.data_std": Range(0, 1e6),
    "training.num_steps": Range(1, STEPS),
    "training.batch_size": Range(1, 2**31 - 1),
    "training.learning_rate": Range(0, 1e3, above=True),
    "training.warmup_steps": Range(0, STEPS),
    "training.anneal_steps": Range(0, STEPS),
    "training.inverse_sqrt_after": Range(0, STEPS),
    "training.beta1": Range(0, 1, below=True),
    "training.beta2": Range(0, 1, below=True),
    "training.weight_decay": Range(0, 1e6),
    "training.clip_norm": Range(0, 1e9),
    "training.ema": Range(0, 1, below=True),
    "training.accumulate": Range(1, 2**20),
    "training.log_every": Range(1, STEPS),
    "training.checkpoint_every": Range(1, STEPS),
    "training.snapshot_every": Range(1, STEPS),
    "training.preview_every": Range(1, STEPS),
    "sampling.eta": Range(0, 1),
    "sampling.sigma_min": Range(1e-9, 1e9),
    "sampling.sigma_max": Range(1e-9, 1e9),
    "sampling.rho": Range(1e-3, 1e3),
    "mesh.fsdp": Range(1, 2**20),
}

# Field: the lowest that each of its numbers may be.
NUMBER_LISTS = {
    "model.channel_mult": 1e-9,
    "model.attention_resolutions": 1,
    "training.power_ema": 1e-9,
    "sampling.churn": 0,
}

POINTS = ("toy_a", "toy_ab")  # names of data that are no images
LONGEST_POWER_EMA = 12**-0.5  # relative width where all steps count equally: .2887
LEAST_DATA_STD = 1e-6  # where it is stated
WIDEST = 2**16  # channels of a level

# What has no meaning for points and the network of them, and so stays at 0, "none" or False.
IMAGE_FIELDS = (
    "data.num_classes",
    "data.low_res_size",
    "data.augment",
    "model.dropout",
    "diffusion.label_dropout",
    "diffusion.uncertainty",
    "sampling.clip",
)


def check_fields(config, base):
    """Raises UserError unless a config has the sections and fields of `base`, of their types."""
    _check_names("", config, base)
    for name, default in base.items():
        if not isinstance(default, ConfigDict):
            _check_type(name, config[name], default)
            continue
        if not isinstance(config[name], ConfigDict):
            raise UserError(
                f"The config's section {name} is {shown(config[name])}: set its fields one by one, "
                f"as in config.{name}.{next(iter(default))} = ..."
            )
        _check_names(f"{name}.", config[name], default)
        for field, value in default.items():
            _check_type(f"{name}.{field}", config[name][field], value)


def _check_names(prefix, config, base):
    missing = [name for name in base if name not in config]
    if missing:
        raise UserError(
            f"The config lacks {prefix}{missing[0]}: begin it with jaxdiff.config.base(), which "
            "has every field."
        )
    for name in config:
        if name not in base:
            nearest = difflib.get_close_matches(str(name), base, 1)
            advice = f"did you mean {prefix}{nearest[0]}?" if nearest else "leave it out."
            raise UserError(f"The config has no field {prefix}{shown(name)}: {advice}")


def _check_type(name, value, default):
    wanted = type(default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is float and is_number:
        return
    if not isinstance(value, wanted) or (wanted is int and not is_number):
        kind = {tuple: "a tuple of numbers, such as (1, 2)", str: "text", bool: "True or False"}
        expected = kind.get(wanted, "a whole number" if wanted is int else "a number")
        raise UserError(f"{name} is {shown(value)}: it must be {expected}.")


def shown(value):
    """A value as text that fits into a message."""
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def check_values(config, fields):
    """Raises UserError for the first value that cannot be right.

    Args:
      config: with the fields of `jaxdiff.config.base`.
      fields: the same as {"section.name": value}.
    """
    for name, choices in CHOICES.items():
        if fields[name] not in choices:
            raise UserError(f"{name} is {shown(fields[name])}: it must be {_either(choices)}.")
    for name, numbers in RANGES.items():
        if fields[name] not in numbers:
            raise UserError(f"{name} is {shown(fields[name])}: it must be {numbers}.")
    for name, low in NUMBER_LISTS.items():
        if not all(_is_number(v) and v >= low for v in fields[name]):
            kind = "positive" if low else "no negative"
            raise UserError(f"{name} is {shown(fields[name])}: it must hold {kind} numbers.")
    _check_data(config.data)
    _check_diffusion(config)
    _check_training(config.training)
    _check_sampling(config.sampling)
    if config.model.kind == "toy" or config.data.name in POINTS:
        _check_toy(config, fields)
    else:
        _check_levels(config.model)
    if config.model.kind == "classifier":
        _check_classifier(config)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_data(data):
    if not data.name:
        raise UserError(
            "data.name is empty: set it to `digits`, a dataset of TFDS or a folder of one."
        )
    low_res = data.low_res_size
    if low_res and (data.image_size % low_res or data.image_size == low_res):
        raise UserError(
            f"data.low_res_size is {low_res}: images of {data.image_size} must be a multiple of "
            "it, and larger."
        )


def _check_levels(model):
    if not model.channel_mult:
        raise UserError("model.channel_mult is empty: it must hold a number for each level.")
    widest = max(model.channel_mult) * model.channels
    if not widest <= WIDEST:
        raise UserError(
            f"model.channel_mult is {shown(model.channel_mult)}: a level would be {widest:g} "
            f"channels wide, and at most {WIDEST} are possible; use smaller numbers."
        )
    if not all(isinstance(size, int) for size in model.attention_resolutions):
        raise UserError(
            f"model.attention_resolutions is {shown(model.attention_resolutions)}: it must hold "
            "whole numbers, the sizes of images."
        )


def _check_diffusion(config):
    diffusion = config.diffusion
    if diffusion.label_dropout and not config.data.num_classes:
        raise UserError(
            f"diffusion.label_dropout is {diffusion.label_dropout}, but data.num_classes is 0: "
            "there are no labels to drop; set one of the two."
        )
    if 0 < diffusion.data_std < LEAST_DATA_STD:
        raise UserError(
            f"diffusion.data_std is {diffusion.data_std}: it must be at least {LEAST_DATA_STD}, or "
            "0 to be measured."
        )
    if diffusion.process == "edm" and diffusion.timestep_sampler != "uniform":
        raise UserError(
            f"diffusion.timestep_sampler is {diffusion.timestep_sampler}, but process edm has no "
            "timesteps: set it to uniform."
        )
    if diffusion.process != "edm" and diffusion.uncertainty:
        raise UserError(
            f"diffusion.uncertainty is True, but the process is {diffusion.process}: set "
            "diffusion.process to edm, or diffusion.uncertainty to False."
        )
    if diffusion.loss == "simple" and diffusion.variance.startswith("learned"):
        raise UserError(
            "diffusion.loss `simple` does not train the variance that diffusion.variance "
            f"`{diffusion.variance}` asks for: use `hybrid`, or set diffusion.variance to "
            "`fixed_large`."
        )
    if diffusion.process == "adm":
        _check_betas(diffusion)


def _check_betas(diffusion):
    betas = getattr(schedules, diffusion.schedule)(diffusion.num_timesteps)
    wrong = ~((betas > 0) & (betas < 1))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise UserError(
            f"diffusion.num_timesteps is {diffusion.num_timesteps}: the schedule "
            f"{diffusion.schedule} then has a beta of {betas[step]:.6g} at timestep {step}, where "
            "it must be above 0 and below 1; use more timesteps, or another schedule."
        )


def _check_training(training):
    anneal = training.anneal_steps
    if anneal and not training.warmup_steps < anneal:
        raise UserError(
            f"training.anneal_steps is {anneal} and training.warmup_steps is "
            f"{training.warmup_steps}: the learning rate must end after it has begun."
        )
    if anneal and training.num_steps > anneal:
        raise UserError(
            f"training.num_steps is {training.num_steps}, but the learning rate is 0 from "
            f"training.anneal_steps {anneal} on: train no longer than that."
        )
    if anneal and training.inverse_sqrt_after:
        raise UserError(
            f"training.anneal_steps is {anneal} and training.inverse_sqrt_after is "
            f"{training.inverse_sqrt_after}: the learning rate falls in one way; set one to 0."
        )
    if not training.learning_rate * training.weight_decay < 1:
        raise UserError(
            f"training.weight_decay is {training.weight_decay}: times training.learning_rate "
            f"{training.learning_rate} it must be below 1, as each step takes that share off the "
            "parameters."
        )
    widths = training.power_ema
    if len(set(widths)) < len(widths) or not all(v < LONGEST_POWER_EMA for v in widths):
        raise UserError(
            f"training.power_ema is {shown(widths)}: it must hold different widths below "
            f"{LONGEST_POWER_EMA:.4f}, such as 0.05 and 0.1."
        )


def _check_sampling(sampling):
    if len(sampling.churn) > 4:
        raise UserError(
            f"sampling.churn is {shown(sampling.churn)}: it holds at most S_churn, S_min, S_max "
            "and S_noise."
        )
    if not sampling.sigma_min < sampling.sigma_max:
        raise UserError(
            f"sampling.sigma_min is {sampling.sigma_min}: it must be below sampling.sigma_max "
            f"{sampling.sigma_max}."
        )


def _check_classifier(config):
    if config.data.num_classes < 2:
        raise UserError(
            f"data.num_classes is {config.data.num_classes}: a classifier needs at least 2 classes."
        )
    if config.diffusion.label_dropout or config.data.low_res_size:
        raise UserError(
            "diffusion.label_dropout and data.low_res_size have no meaning for a classifier: set "
            "them to 0."
        )
    if config.diffusion.process != "adm":
        raise UserError(
            f"diffusion.process is {config.diffusion.process}: classifiers are trained on the "
            "noise of adm alone."
        )


def _check_toy(config, fields):
    if config.model.kind != "toy" or config.data.name not in POINTS:
        raise UserError(
            f"data.name is {shown(config.data.name)} and model.kind is {config.model.kind}: the "
            f"points {_either(POINTS)} and the network `toy` belong together."
        )
    if config.diffusion.process != "edm":
        raise UserError(
            f"diffusion.process is {config.diffusion.process}, but points are trained with edm "
            "alone: set it to edm."
        )
    if not config.diffusion.data_std:
        raise UserError(
            "diffusion.data_std is 0, but that of points is not measured: state it, as in 0.5."
        )
    for name in IMAGE_FIELDS:
        if fields[name] not in (0, "none"):
            off = "none" if name == "data.augment" else type(fields[name])(0)
            raise UserError(
                f"{name} is {fields[name]}, which has no meaning for points: set it to {off}."
            )


def _either(choices):
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last
