"""Both classes of the toy at once, for classifier-free guidance of configs/toy.py.

python train.py --config configs/toy_unconditional.py --workdir runs/toy_unconditional
"""

from configs import toy_guide
from jaxdiff.config import replaced


def get_config():
    return replaced(toy_guide.get_config(), {"data.classes": "AB", "diffusion.classes": "AB"})
