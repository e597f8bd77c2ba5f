"""A smaller network, trained less: a guide for that of configs/fashion_edm.py.

    python train.py --config configs/fashion_edm_guide.py --workdir runs/fashion_edm_guide
    python sample.py --model runs/fashion_edm --guide runs/fashion_edm_guide@200 --weight 2 \
        --out samples/fashion

One level less, without attention, and a quarter of the training.
"""

from configs import fashion_edm


def get_config():
    config = fashion_edm.get_config()
    config.model.channel_mult = (1, 1)
    config.model.attention_resolutions = ()
    config.training.num_steps = 400
    config.training.checkpoint_every = 200
    config.training.snapshot_every = 50
    config.training.preview_every = 200
    return config
