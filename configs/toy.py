"""Points on a tree, the toy of autoguidance (Karras et al. 2024, arXiv:2406.02507, appendix C).

    python train.py --config configs/toy.py --workdir runs/toy

The network that configs/toy_guide.py, smaller and less trained, guides. On one CPU core: 2 min 20 s
of CPU time. Of 40,000 points without guidance 7.5 % are outliers (mean of three seeds, 7.3 to 7.8;
6.8 % in the authors' program): docs/guidance.md has the tables.
"""

from jaxdiff.config import base


def get_config():
    config = base()
    config.data.name = "toy_a"

    config.model.kind = "toy"
    config.model.channels = 64

    config.diffusion.process = "edm"
    config.diffusion.p_mean = -2.3
    config.diffusion.p_std = 1.5

    config.training.num_steps = 4096
    config.training.batch_size = 4096
    config.training.learning_rate = 0.01
    config.training.inverse_sqrt_after = 512
    config.training.beta2 = 0.99
    config.training.clip_norm = 0.0
    config.training.power_ema = (0.01,)
    config.training.log_every = 64
    config.training.checkpoint_every = 1024
    config.training.snapshot_every = 512
    config.training.preview_every = 1024

    config.sampling.sampler = "heun"
    config.sampling.steps = "32"
    config.sampling.sigma_max = 5.0
    config.sampling.clip = False
    return config
