r"""A smaller network, trained less: the guide of the network of configs/digits_edm.py.

    python train.py --config configs/digits_edm_guide.py --workdir runs/digits_edm_guide
    python sample.py --model runs/digits_edm --guide runs/digits_edm_guide@500 --weight 2 \
        --out samples/autoguided

Half the width where the images are small, a third of the training. docs/autoguidance.md has what
was measured with it.
"""

from configs import digits_edm
from jaxdiff.config import replaced


def get_config():
    return replaced(
        digits_edm.get_config(),
        {
            "model.channel_mult": (1, 1),
            "training.num_steps": 1000,
            "training.checkpoint_every": 500,
            "training.snapshot_every": 50,
            "training.preview_every": 500,
        },
    )
