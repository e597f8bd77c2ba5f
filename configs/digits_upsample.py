"""Super-resolution of the digits, from 4 x 4 to 8 x 8 pixels: the smallest example of it.

    python train.py --config configs/digits_upsample.py --workdir runs/digits_upsample
    python sample.py --model runs/digits_upsample --low_res small.npz --out samples/upsampled

small.npz holds arr_0, uint8 images of 4 x 4 pixels, and arr_1, their labels.
"""

from jaxdiff.config import base


def get_config():
    config = base()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.low_res_size = 4
    config.data.channels = 1
    config.data.num_classes = 10

    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32

    config.training.num_steps = 500
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 100
    config.training.ema = 0.99
    config.training.log_every = 50
    config.training.checkpoint_every = 500
    config.training.snapshot_every = 500
    config.training.preview_every = 250

    config.sampling.steps = "50"
    return config
