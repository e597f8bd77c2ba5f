r"""Classifies noisy ImageNet images at 512 x 512: the guide of imagenet512, 54,448,360 parameters.

    python train.py --config configs/adm/classifier512.py --workdir runs/classifier512 \
        --config.training.dtype=bfloat16

Training, the paper's: 500,000 iterations, batch 256, learning rate 3e-4 falling linearly to 0,
weight decay 0.05. Not run here. Results with guidance, and scales, are told by imagenet512.
"""

from configs.adm import common


def get_config():
    config = common.classifier(512, num_steps=500_000)
    return config
