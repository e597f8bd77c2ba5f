"""A classifier of noisy Fashion-MNIST; its features are what distances are measured on.

    python train.py --config configs/fashion_classifier.py --workdir runs/fashion_classifier

docs/autoguidance.md says how the data are prepared, and what is measured.
"""

from configs import digits_classifier


def get_config():
    config = digits_classifier.get_config()
    config.data.name = "data/fashion"
    config.data.image_size = 32
    config.data.fit = "pad"
    config.model.channel_mult = (1, 1, 2)
    config.model.attention_resolutions = (8,)
    config.diffusion.from_run = ""
    config.training.num_steps = 800
    config.training.anneal_steps = 800
    config.training.checkpoint_every = 400
    config.training.snapshot_every = 400
    config.training.preview_every = 400
    return config
