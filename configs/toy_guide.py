"""The guide of configs/toy.py: half as wide, and an eighth of the training.

python train.py --config configs/toy_guide.py --workdir runs/toy_guide
"""

from configs import toy
from jaxdiff.config import replaced


def get_config():
    return replaced(toy.get_config(), {"model.channels": 32, "training.num_steps": 512})
