r"""LSUN horses at 256 x 256, 552,814,086 parameters.

    python train.py --config configs/adm/lsun_horse.py --workdir runs/lsun_horse \
        --config.training.dtype=bfloat16

Training, the paper's: 250,000 iterations, batch 256, learning rate 1e-4.

The checkpoint `lsun_horse_nodropout.pt` is of this config with --config.model.dropout=0.

Results, the paper's, not ours; not run here:

    steps                FID   sFID  precision  recall
    1000                 2.57  6.81  0.71       0.55
    250                  3.45  7.55  0.68       0.56
    100,50,40,30,30      2.83  7.08  0.69       0.56
"""

from configs.adm import common


def get_config():
    return common.lsun("horse", 250_000)
