"""A run small enough for tests: the digits config with one level of 32 channels."""

from configs import digits
from jaxdiff.config import import_modules, replaced

import_modules(["studies.digits.data"])  # whose function prepares the images
OVERRIDES = {
    "model.channel_mult": (1,),
    "model.attention_resolutions": (),
    "diffusion.num_timesteps": 20,
    "training.batch_size": 16,
    "training.warmup_steps": 4,
    "training.num_steps": 20,
    "training.log_every": 5,
    "training.checkpoint_every": 10,
    "training.snapshot_every": 5,
    "training.preview_every": 1000,
    "sampling.steps": 4,
}


def config(**overrides):
    """The tiny config; overrides name fields as section__field, and sections of another kind."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    sections = {name: value for name, value in fields.items() if "." not in name}
    defaults = {n: v for n, v in OVERRIDES.items() if n.partition(".")[0] not in sections}
    return replaced(digits.get_config(), {**defaults, **fields})


def flags(**overrides):
    """The same as arguments of train.py."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"--config.{name}={value}" for name, value in {**OVERRIDES, **fields}.items()]
