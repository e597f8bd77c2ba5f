r"""A smaller network, trained less: a guide for that of configs/fashion_edm.py.

    python train.py --config configs/fashion_edm_guide.py --workdir runs/fashion_edm_guide
    python sample.py --model runs/fashion_edm --guide runs/fashion_edm_guide@200 --weight 2 \
        --out samples/fashion

Half the width, and a quarter of the training. 111,857 parameters.
"""

from configs import fashion_edm
from jaxdiff.config import replaced


def get_config():
    return replaced(
        fashion_edm.get_config(),
        {
            "model.channels": 16,
            "model.head_channels": 16,
            "training.num_steps": 600,
            "training.checkpoint_every": 300,
            "training.snapshot_every": 50,
            "training.preview_every": 300,
        },
    )
