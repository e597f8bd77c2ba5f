r"""Classifies noisy ImageNet images at 256 x 256: the guide of imagenet256, 54,096,360 parameters.

    python train.py --config configs/adm/classifier256.py --workdir runs/classifier256 \
        --config.training.dtype=bfloat16

Training, the paper's: 500,000 iterations, batch 256, learning rate 3e-4 falling linearly to 0,
weight decay 0.05. Not run here. Results with guidance, and scales, are told by imagenet256 and
its unconditional twin.
"""

from configs.adm import common


def get_config():
    config = common.classifier(256, num_steps=500_000)
    return config
