"""Digits conditioned on an image of their edges, a condition that is aligned with x.

    python train.py --config configs/digits_edges.py --workdir runs/digits_edges
    python -m studies.digits.conditions --model runs/digits_edges --out samples/digits_edges

docs/guidance.md has what CFG and CADS do to it.
"""

from configs import digits_vector
from jaxdiff.config import Image, replaced


def get_config():
    return replaced(digits_vector.get_config(), {"model.conditions": (Image(1),)})
