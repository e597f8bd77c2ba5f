r"""Classifies noisy ImageNet images at 128 x 128: the guide of imagenet128, 42,568,040 parameters.

    python train.py --config configs/adm/classifier128.py --workdir runs/classifier128 \
        --config.training.dtype=bfloat16

Training, the paper's: 300,000 iterations, batch 256, learning rate 3e-4 falling linearly to 0,
weight decay 0.05. Not run here. imagenet128 has results with guidance, and scales.
"""

from configs.adm import common


def get_config():
    return common.classifier(128, 300_000)
