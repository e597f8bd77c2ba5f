"""A smaller network, trained less: a guide for that of configs/digits_edm.py.

    python train.py --config configs/digits_edm_guide.py --workdir runs/digits_edm_guide
    python sample.py --model runs/digits_edm --guide runs/digits_edm_guide@500 --weight 2 \
        --out samples/autoguided

Half the width where the images are small, a third of the training. docs/autoguidance.md says
what it is worth as a guide.
"""

from configs import digits_edm


def get_config():
    config = digits_edm.get_config()
    config.model.channel_mult = (1, 1)
    config.training.num_steps = 1000
    config.training.checkpoint_every = 500
    config.training.snapshot_every = 50
    config.training.preview_every = 500
    return config
