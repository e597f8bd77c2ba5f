"""Both classes of the toy at once, for classifier-free guidance of configs/toy.py.

python train.py --config configs/toy_unconditional.py --workdir runs/toy_unconditional
"""

from configs import toy_guide


def get_config():
    config = toy_guide.get_config()
    config.data.name = "toy_ab"
    return config
