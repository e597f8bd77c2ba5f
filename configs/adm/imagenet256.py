r"""ImageNet at 256 x 256 with labels, 553,838,086 parameters.

    python train.py --config configs/adm/imagenet256.py --workdir runs/imagenet256 \
        --config.training.dtype=bfloat16

Training, the paper's: 1,980,000 iterations, batch 256, learning rate 1e-4.

Results, the paper's, not ours, of 250 steps; not run here:

                          FID    sFID  precision  recall
    alone                 10.94  6.02  0.69       0.63
    classifier256, 1.0     4.59  5.25  0.82       0.52

With 25 steps of DDIM its scale is 2.5.
"""

from configs.adm import common


def get_config():
    return common.unet(256, {"training.num_steps": 1_980_000})
