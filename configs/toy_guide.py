"""The guide of configs/toy.py: half as wide, and an eighth of the training.

python train.py --config configs/toy_guide.py --workdir runs/toy_guide
"""

from configs import toy


def get_config():
    config = toy.get_config()
    config.model.channels = 32
    config.training.num_steps = 512
    return config
