"""A classifier of noisy Fashion-MNIST, whose features Frechet distances are measured with.

    python train.py --config configs/fashion_classifier.py --workdir runs/fashion_classifier

docs/autoguidance.md says how the data are prepared, and what is measured.
"""

from configs import digits_classifier, fashion_edm
from jaxdiff.config import ADM, replaced


def get_config():
    return replaced(
        digits_classifier.get_config(),
        {
            "data": fashion_edm.DATA,
            "model.channel_mult": (1, 1, 2),
            "model.attention_resolutions": (8,),
            "diffusion": ADM(),
            "training.num_steps": 800,
            "training.anneal_steps": 800,
            "training.checkpoint_every": 400,
            "training.snapshot_every": 400,
            "training.preview_every": 400,
        },
    )
