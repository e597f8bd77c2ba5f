r"""ImageNet at 512 x 512 with labels, 558,997,638 parameters.

    python train.py --config configs/adm/imagenet512.py --workdir runs/imagenet512 \
        --config.training.dtype=bfloat16

Training, the paper's: 1,940,000 iterations, batch 256, learning rate 1e-4.

Results, the paper's, not ours, of 250 steps; not run here:

                          FID    sFID   precision  recall
    alone                 23.24  10.19  0.73       0.60
    classifier512, 4.0     7.72   6.57  0.87       0.42

With 25 steps of DDIM its scale is 9.0.
"""

from configs.adm import common


def get_config():
    return common.unet(512, {"training.num_steps": 1_940_000})
