"""Points on a tree, the toy of autoguidance (Karras et al. 2024, arXiv:2406.02507, appendix C).

    python train.py --config configs/toy.py --workdir runs/toy

This is the main network; configs/toy_guide.py is its guide. On one CPU core: 2 min 20 s
of CPU time. Of 40,000 points without guidance 7.5 % are outliers (mean of three seeds, 7.3 to 7.8;
6.8 % in the authors' program): docs/guidance.md has the tables.
"""

from jaxdiff.config import Heun, RunConfig, TrainingConfig
from studies.toy.kinds import LogDensityEDM, ToyNetwork, TreeData


def get_config():
    return RunConfig(
        data=TreeData(classes="A"),
        model=ToyNetwork(channels=64),
        diffusion=LogDensityEDM(p_mean=-2.3, p_std=1.5, classes="A"),
        training=TrainingConfig(
            num_steps=4096,
            batch_size=4096,
            learning_rate=0.01,
            inverse_sqrt_after=512,
            beta2=0.99,
            clip_norm=0.0,
            power_ema=(0.01,),
            log_every=64,
            checkpoint_every=1024,
            snapshot_every=512,
            preview_every=1024,
        ),
        sampling=Heun(steps=32, sigma_max=5.0, clip=False),
    )
