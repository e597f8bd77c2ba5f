"""A smaller network of the digits, trained less: the guide of the network of configs/digits.py.

    python train.py --config configs/digits_small.py --workdir runs/digits_small
    python sample.py --model runs/digits --guide runs/digits_small@150 --weight 2 --out samples/auto

Half the width where the images are small, a third of the training, and snapshots every 50 steps to
choose from.
"""

from configs import digits
from jaxdiff.config import replaced


def get_config():
    return replaced(
        digits.get_config(),
        {
            "model.channel_mult": (1, 1),
            "training.num_steps": 500,
            "training.checkpoint_every": 250,
            "training.snapshot_every": 50,
        },
    )
