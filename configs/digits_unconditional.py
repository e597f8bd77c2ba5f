"""Handwritten digits without labels, for a classifier to guide; otherwise as configs/digits.py.

python train.py --config configs/digits_unconditional.py --workdir runs/digits_unconditional
"""

from jaxdiff.config import base


def get_config():
    config = base()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1

    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32

    config.training.num_steps = 1500
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 100
    config.training.ema = 0.995
    config.training.log_every = 50
    config.training.checkpoint_every = 500
    config.training.snapshot_every = 250
    config.training.preview_every = 500

    config.sampling.steps = "50"
    return config
