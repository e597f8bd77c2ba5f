r"""The guide of configs/imagenet64_edm.py: half as wide, an eighth of the training.

74,231,364 parameters.

    python train.py --config configs/imagenet64_edm_guide.py --workdir runs/imagenet64_guide \
        --distributed

For a pod; not run here. Half the width and an eighth of the training are what autoguidance found
for EDM2-S at this size (Karras et al. 2024, arXiv:2406.02507: XS, T/8). Heads are half as wide as
well, so that there are as many. A snapshot every 2.1 million images, to search for the best step
in: 64 of them, of two averages in bfloat16, 19 GB.
"""

from configs import imagenet64_edm


def get_config():
    config = imagenet64_edm.get_config()
    config.model.channels = 96
    config.model.head_channels = 32
    config.training.num_steps //= 8
    config.training.checkpoint_every = 2048
    config.training.snapshot_every = 1024
    config.training.preview_every = 4096
    return config
