r"""Classifies noisy ImageNet images at 512 x 512: the guide of imagenet512, 54,448,360 parameters.

    python train.py --config configs/adm/classifier512.py --workdir runs/classifier512 \
        --config.training.dtype=bfloat16

Training, the paper's: 500,000 iterations, batch 256, learning rate 3e-4 falling linearly to 0,
weight decay 0.05. Not run here. imagenet512 has results with guidance, and scales.
"""

from configs.adm import common


def get_config():
    return common.classifier(512, 500_000)
