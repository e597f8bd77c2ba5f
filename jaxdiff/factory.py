"""From a config's names to networks, processes and samplers: the only place that looks them up."""

import math

import jax.numpy as jnp
import numpy as np

from jaxdiff.config import SAMPLERS
from jaxdiff.data import toy
from jaxdiff.data.source import POINTS
from jaxdiff.diffusion import adm, edm, parameterization, schedules
from jaxdiff.diffusion.adm import Adm
from jaxdiff.diffusion.edm import Edm
from jaxdiff.diffusion.timesteps import LossHistory
from jaxdiff.errors import UserError
from jaxdiff.guidance import weights
from jaxdiff.guidance.weights import Steps
from jaxdiff.models.classifier import ClassifierSpec, EncoderClassifier
from jaxdiff.models.network import Network
from jaxdiff.models.toy import Toy, ToySpec, constrain
from jaxdiff.models.unet import UNet, UNetSpec
from jaxdiff.samplers.ddim import Ddim
from jaxdiff.samplers.ddpm import Ddpm
from jaxdiff.samplers.dpmpp import DpmPp
from jaxdiff.samplers.heun import Heun

SCHEDULES = {"cosine": schedules.cosine, "linear": schedules.linear}
PREDICTIONS = {
    "eps": parameterization.EPS,
    "x0": parameterization.X0,
    "v": parameterization.V,
}
VARIANCES = {
    "learned_range": parameterization.LEARNED_RANGE,
    "learned": parameterization.LEARNED,
    "fixed_small": parameterization.FIXED_SMALL,
    "fixed_large": parameterization.FIXED_LARGE,
}
LOSSES = {
    "simple": adm.SIMPLE,
    "hybrid": adm.HYBRID,
    "hybrid_unscaled": adm.HYBRID_UNSCALED,
    "vlb": adm.VLB,
}

MOST_CHURN_NOISE = 100  # S_noise, which EDM has near 1

# Shapes of a guidance weight over the steps: (function, what the values after its name are).
WEIGHTS = {
    "static": (weights.static, ()),
    "linear": (weights.linear, ()),
    "invlinear": (weights.invlinear, ()),
    "cosine": (weights.cosine, ()),
    "sine": (weights.sine, ()),
    "v": (weights.v_shape, ()),
    "lambda": (weights.lambda_shape, ()),
    "clamp-linear": (weights.clamp_linear, ("LEAST",)),
    "clamp-cosine": (weights.clamp_cosine, ("LEAST",)),
    "power-cosine": (weights.power_cosine, ("POWER",)),
    "dynamic": (weights.dynamic, ("TAU1", "TAU2")),
}


def network(config):
    """The network of a run, without parameters.

    Raises:
      UserError: if no network can have the config's sizes.
    """
    data, model = config.data, config.model
    if model.kind == "toy":
        spec = ToySpec(
            channels=model.channels,
            initial_gain=model.initial_gain,
            final_silu=model.final_silu,
        )
        return Network(lambda rngs: Toy(spec, rngs=rngs), spec, constrain)
    encoder = {
        "image_size": data.image_size,
        "in_channels": data.channels,
        "channels": model.channels,
        "channel_mult": tuple(model.channel_mult),
        "num_res_blocks": model.num_res_blocks,
        "attention_resolutions": tuple(model.attention_resolutions),
        "head_channels": model.head_channels,
        "num_heads": model.num_heads or None,
        "resblock_updown": model.resblock_updown,
        "conv_resample": model.conv_resample,
        "adaptive_norm": model.adaptive_norm,
        "rescale_residuals": model.rescale_residuals,
        "dtype": jnp.dtype(config.training.dtype),
        "remat": config.training.remat,
    }
    if model.kind == "classifier":
        spec = ClassifierSpec(num_classes=data.num_classes, pool=model.pool, **encoder)
        return Network(lambda rngs: EncoderClassifier(spec, rngs=rngs), spec)
    is_adm = config.diffusion.process == "adm"
    learned = is_adm and VARIANCES[config.diffusion.variance].learned
    spec = UNetSpec(
        out_channels=data.channels * (2 if learned else 1),
        num_heads_upsample=model.num_heads_upsample or None,
        num_classes=data.num_classes or None,
        null_class=config.diffusion.label_dropout > 0,
        super_resolution=data.low_res_size > 0,
        uncertainty=config.diffusion.uncertainty,
        **encoder,
    )
    return Network(lambda rngs: UNet(spec, rngs=rngs), spec)


def process(config):
    """The noise process of a run.

    Raises:
      UserError: if the data's standard deviation has yet to be measured.
    """
    diffusion = config.diffusion
    if diffusion.process == "edm":
        if not diffusion.data_std:
            raise UserError(
                "diffusion.data_std is 0, which a run replaces by what it measures as it begins: "
                "train it first, or state the number."
            )
        is_toy = config.model.kind == "toy"
        return Edm(
            p_mean=diffusion.p_mean,
            p_std=diffusion.p_std,
            data_std=diffusion.data_std,
            parameterization=edm.LOG_DENSITY if is_toy else edm.PRECONDITIONED,
            data=toy.distribution(POINTS[config.data.name]) if is_toy else None,
        )
    return Adm(
        schedule=SCHEDULES[diffusion.schedule],
        num_timesteps=diffusion.num_timesteps,
        prediction=PREDICTIONS[diffusion.prediction],
        variance=VARIANCES[diffusion.variance],
        loss=LOSSES[diffusion.loss],
        rescale_timesteps=diffusion.rescale_timesteps,
    )


def loss_history(config):
    """What timesteps are drawn by, before the first step; None where all are drawn alike."""
    if config.diffusion.timestep_sampler == "uniform":
        return None
    return LossHistory.empty(config.diffusion.num_timesteps)


def sampler(sampling):
    """The sampler of a config's section `sampling`.

    Raises:
      UserError: for options that the sampler does not have.
    """
    for option, owner in (("eta", "ddim"), ("churn", "heun")):
        numbers = sampling[option] if isinstance(sampling[option], tuple) else (sampling[option],)
        if any(numbers[:1]) and sampling.sampler != owner:
            raise UserError(
                f"{option} {numbers[0]:g} has no meaning for the sampler {sampling.sampler}: use "
                f"{owner}, or leave it out."
            )
    if sampling.sampler == "ddim":
        return Ddim(eta=sampling.eta, clip=sampling.clip)
    if sampling.sampler == "heun":
        return _heun(sampling)
    if sampling.sampler == "dpmpp":
        return DpmPp(clip=sampling.clip)
    if sampling.sampler == "ddpm":
        return Ddpm(clip=sampling.clip)
    raise UserError(
        f"sampling.sampler is {sampling.sampler!r}: the samplers are {', '.join(SAMPLERS)}."
    )


def _heun(sampling):
    names = ("churn", "churn_min", "churn_max", "churn_noise")
    heun = Heun(clip=sampling.clip, **dict(zip(names, sampling.churn, strict=False)))
    is_ordered = heun.churn_min <= heun.churn_max and heun.churn < math.inf
    in_range = is_ordered and heun.churn_noise <= MOST_CHURN_NOISE
    if not (in_range and min(sampling.churn, default=0) >= 0):
        raise UserError(
            f"churn {','.join(format(v, 'g') for v in sampling.churn)} is out of range: give "
            "S[,MIN,MAX,NOISE], none of them negative, S finite, MIN not above MAX, and NOISE at "
            f"most {MOST_CHURN_NOISE}."
        )
    return heun


def takes_timesteps(config, sampling):
    """Whether the sampler goes through ADM's timesteps, respaced, and not through EDM's grid."""
    return config.diffusion.process == "adm" and sampling.sampler in ("ddpm", "ddim")


def path(config, sampling):
    """The noise levels that a sampler goes through, and what guidance weights may depend on.

    Args:
      config: of the run.
      sampling: a section `sampling`, the run's or another.

    Returns:
      (levels [N + 1] float64, Steps).

    Raises:
      UserError: for steps that cannot be met.
    """
    noise = process(config)
    if takes_timesteps(config, sampling):
        levels = noise.levels(sampling.steps)
        time = noise.times(sampling.steps)
    else:
        levels = noise.sigma_levels(
            sampling.steps, sampling.sigma_min, sampling.sigma_max, sampling.rho
        )
        if sampling.sampler == "ddpm":
            levels = noise.preserving(levels)
        count = len(levels.sigma) - 1
        time = 1 - (np.arange(count) + 0.5) / count
    return levels, Steps(levels.ratio[:-1], time)


def sample_shape(config):
    """Shape of one sample: (height, width, channels); of a point, (2,)."""
    if config.data.name in POINTS:
        return (2,)
    return (config.data.image_size, config.data.image_size, config.data.channels)
