"""Super-resolution of the digits, from 4 x 4 to 8 x 8 pixels: the smallest example of it.

    python train.py --config configs/digits_upsample.py --workdir runs/digits_upsample
    python sample.py --model runs/digits_upsample --low_res small.npz --out samples/upsampled

small.npz holds arr_0, uint8 images of 4 x 4 pixels, and arr_1, their labels.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.data.low_res_size = 4
    config.diffusion.label_dropout = 0.0

    config.training.num_steps = 500
    config.training.ema = 0.99
    config.training.snapshot_every = 500
    config.training.preview_every = 250
    return config
