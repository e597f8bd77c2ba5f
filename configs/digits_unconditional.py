"""Handwritten digits without labels, for a classifier to guide; otherwise as configs/digits.py.

python train.py --config configs/digits_unconditional.py --workdir runs/digits_unconditional
"""

from configs import digits
from jaxdiff.config import replaced


def get_config():
    return replaced(
        digits.get_config(), {"model.conditions": (), "diffusion.condition_dropout": 0.0}
    )
