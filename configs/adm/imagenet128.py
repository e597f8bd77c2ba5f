r"""ImageNet at 128 x 128 with labels, 421,529,606 parameters.

    python train.py --config configs/adm/imagenet128.py --workdir runs/imagenet128 \
        --config.training.dtype=bfloat16

Training, the paper's: 4,360,000 iterations, batch 256, learning rate 1e-4.

Results, the paper's, not ours, of 250 steps; not run here:

                          FID   sFID  precision  recall
    alone                 5.91  5.09  0.70       0.65
    classifier128, 0.5    2.97  5.09  0.78       0.59

With 25 steps of DDIM its scale is 1.25.
"""

from configs.adm import common


def get_config():
    return common.unet(128, {"model.num_heads": 4, "training.num_steps": 4_360_000})
