"""Every setting, once: classes of settings, checked when they are made. Nothing here imports JAX.

A run's config file returns a `RunConfig`:

    from jaxdiff.config import ADM, DDPM, DataConfig, Label, RunConfig, TrainingConfig, UNetConfig

    def get_config():
        return RunConfig(
            data=DataConfig(name="data/mnist", image_size=32, channels=1),
            model=UNetConfig(channels=64, channel_mult=(1, 2), conditions=(Label(10),)),
            diffusion=ADM(condition_dropout=0.1),
            training=TrainingConfig(num_steps=20_000, batch_size=128),
            sampling=DDPM(steps=250),
        )
"""

from jaxdiff.config.conditions import Condition, Image, Label, Tokens, Vector, label_of
from jaxdiff.config.evaluation import METRICS, EvaluationConfig
from jaxdiff.config.fields import Range, is_settings, settings
from jaxdiff.config.guidance import (
    APG,
    CADS,
    CFG,
    ICG,
    Autoguidance,
    ClassifierGuidance,
    Guidance,
    Schedule,
)
from jaxdiff.config.networks import (
    ClassifierConfig,
    Network,
    PixelCodec,
    Signature,
    UNetConfig,
)
from jaxdiff.config.overrides import config_from, described, override
from jaxdiff.config.processes import ADM, EDM, Process
from jaxdiff.config.run import RunConfig, differences, flatten, replaced
from jaxdiff.config.samplers import DDIM, DDPM, DPMpp, Heun, Sampler
from jaxdiff.config.serialization import from_dict, import_modules, imported, to_dict
from jaxdiff.config.training import DataConfig, MeshConfig, TrainingConfig

__all__ = [
    "ADM",
    "APG",
    "CADS",
    "CFG",
    "DDIM",
    "DDPM",
    "EDM",
    "ICG",
    "METRICS",
    "Autoguidance",
    "ClassifierConfig",
    "ClassifierGuidance",
    "Condition",
    "DPMpp",
    "DataConfig",
    "EvaluationConfig",
    "Guidance",
    "Heun",
    "Image",
    "Label",
    "MeshConfig",
    "Network",
    "PixelCodec",
    "Process",
    "Range",
    "RunConfig",
    "Sampler",
    "Schedule",
    "Signature",
    "Tokens",
    "TrainingConfig",
    "UNetConfig",
    "Vector",
    "config_from",
    "described",
    "differences",
    "flatten",
    "from_dict",
    "import_modules",
    "imported",
    "is_settings",
    "label_of",
    "override",
    "replaced",
    "settings",
    "to_dict",
]
