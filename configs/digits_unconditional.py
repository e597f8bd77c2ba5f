"""Handwritten digits without labels, for a classifier to guide; otherwise as configs/digits.py.

python train.py --config configs/digits_unconditional.py --workdir runs/digits_unconditional
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.data.num_classes = 0
    config.diffusion.label_dropout = 0.0
    return config
