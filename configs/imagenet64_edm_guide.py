r"""The guide of configs/imagenet64_edm.py: half as wide, an eighth of the training.

74,231,364 parameters.

    python train.py --config configs/imagenet64_edm_guide.py --workdir runs/imagenet64_guide

For a pod; not run here. Half the width and an eighth of the training are what autoguidance found
for EDM2-S at this size (Karras et al. 2024, arXiv:2406.02507: XS, T/8). Heads are half as wide as
well, so that there are as many. A snapshot every 2.1 million images, to search for the best step
in: 64 of them, of two averages in bfloat16, 19 GB. By `python -m jaxdiff.plan` it takes 1.2 hours
on 64 TPU v5e. docs/imagenet.md has the whole recipe.
"""

from configs import imagenet64_edm
from jaxdiff.config import replaced


def get_config():
    return replaced(
        imagenet64_edm.get_config(),
        {
            "model.channels": 96,
            "model.head_channels": 32,
            "training.num_steps": imagenet64_edm.IMAGES // imagenet64_edm.BATCH // 8,
            "training.checkpoint_every": 2048,
            "training.snapshot_every": 1024,
            "training.preview_every": 4096,
        },
    )
