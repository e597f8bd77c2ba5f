r"""Super-resolution of the digits, from 4 x 4 to 8 x 8 pixels: the smallest example of it.

    python train.py --config configs/digits_upsample.py --workdir runs/digits_upsample
    python sample.py --model runs/digits_upsample --cond_split test --num_samples 60 \
        --import studies.digits.data --out samples/upsampled

The condition is the digit itself at 4 x 4 pixels, and its label; docs/super_resolution.md has the
result, and how other images are enlarged.
"""

from configs import digits
from jaxdiff.config import Image, Label, replaced


def get_config():
    return replaced(
        digits.get_config(),
        {
            "data.low_res_size": 4,
            "model.conditions": (Label(10), Image(1)),
            "diffusion.condition_dropout": 0.0,
            "training.num_steps": 500,
            "training.ema": 0.99,
            "training.snapshot_every": 500,
            "training.preview_every": 250,
        },
    )
