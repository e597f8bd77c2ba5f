"""Digits conditioned on a vector, the 16 values of their thumbnail of 4 x 4 pixels.

    python train.py --config configs/digits_vector.py --workdir runs/digits_vector
    python -m studies.digits.conditions --model runs/digits_vector --out samples/digits_vector

docs/guidance.md has what CFG and CADS do to it.
"""

from configs import digits_small
from jaxdiff.config import Vector, replaced


def get_config():
    return replaced(
        digits_small.get_config(),
        {
            "model.conditions": (Vector(16),),
            "training.num_steps": 1000,
            "training.snapshot_every": 500,
        },
    )
