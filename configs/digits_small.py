"""A smaller network of the digits, trained less: a guide for that of configs/digits.py.

    python train.py --config configs/digits_small.py --workdir runs/digits_small
    python sample.py --model runs/digits --guide runs/digits_small@150 --weight 2 --out samples/auto

Half the width where the images are small, a third of the training, and snapshots every 50 steps to
choose from.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.model.channel_mult = (1, 1)
    config.training.num_steps = 500
    config.training.checkpoint_every = 250
    config.training.snapshot_every = 50
    return config
