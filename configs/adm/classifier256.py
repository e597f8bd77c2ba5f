r"""Classifies noisy ImageNet images at 256 x 256: the guide of imagenet256, 54,096,360 parameters.

    python train.py --config configs/adm/classifier256.py --workdir runs/classifier256 \
        --config.training.dtype=bfloat16

Training, the paper's: 500,000 iterations, batch 256, learning rate 3e-4 falling linearly to 0,
weight decay 0.05. Not run here. imagenet256 and imagenet256_unconditional have results with
guidance, and scales.
"""

from configs.adm import common


def get_config():
    return common.classifier(256, 500_000)
