r"""ImageNet at 256 x 256 without labels, 552,814,086 parameters.

    python train.py --config configs/adm/imagenet256_unconditional.py --workdir runs/imagenet256u \
        --config.training.dtype=bfloat16

Training, the paper's: "2M" iterations, taken to be imagenet256's 1,980,000, batch 256, learning
rate 1e-4.

Results, the paper's, not ours, of 250 steps; not run here:

                          FID    sFID   precision  recall
    alone                 26.21   6.35  0.61       0.63
    classifier256, 1.0    33.03   6.99  0.56       0.65
    classifier256, 10.0   12.00  10.40  0.76       0.44
"""

from configs.adm import common


def get_config():
    return common.unet(256, {"model.conditions": (), "training.num_steps": 1_980_000})
