"""A run small enough for tests: the digits config with one level of 32 channels."""

from configs import digits

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
    "sampling.steps": "4",
}


def config(**overrides):
    """The tiny config; overrides name fields as section__field."""
    result = digits.get_config()
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    result.update_from_flattened_dict({**OVERRIDES, **fields})
    return result


def flags(**overrides):
    """The same as arguments of train.py."""
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"--config.{name}={value}" for name, value in {**OVERRIDES, **fields}.items()]
