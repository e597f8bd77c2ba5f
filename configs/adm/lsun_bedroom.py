r"""LSUN bedrooms at 256 x 256, 552,814,086 parameters.

    python train.py --config configs/adm/lsun_bedroom.py --workdir runs/lsun_bedroom \
        --config.training.dtype=bfloat16

Training, the paper's: 500,000 iterations, batch 256, learning rate 1e-4.

Results, the paper's, not ours; not run here:

    steps                FID   sFID  precision  recall
    1000                 1.90  5.59  0.66       0.51
    250                  2.31  6.12  0.65       0.50
    100,50,40,30,30      2.02  6.12  0.67       0.50
"""

from configs.adm import common


def get_config():
    return common.lsun("bedroom", 500_000)
