r"""LSUN cats at 256 x 256, 552,814,086 parameters.

    python train.py --config configs/adm/lsun_cat.py --workdir runs/lsun_cat \
        --config.training.dtype=bfloat16

Training, the paper's: 200,000 iterations, batch 256, learning rate 1e-4.

Results, the paper's, not ours; not run here:

    steps                FID   sFID  precision  recall
    1000                 5.57  6.69  0.63       0.52
    250                  7.03  8.24  0.60       0.53
    100,50,40,30,30      5.94  7.43  0.62       0.52
"""

from configs.adm import common


def get_config():
    return common.lsun("cat", 200_000)
