"""A classifier of noisy Fashion-MNIST; its features are what distances are measured on.

    python train.py --config configs/fashion_classifier.py --workdir runs/fashion_classifier

docs/autoguidance.md says how the data are prepared, and what is measured.
"""

from jaxdiff.config import base


def get_config():
    config = base()
    config.data.name = "data/fashion"
    config.data.image_size = 32
    config.data.fit = "pad"
    config.data.channels = 1
    config.data.num_classes = 10

    config.model.kind = "classifier"
    config.model.channels = 32
    config.model.channel_mult = (1, 1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.head_channels = 32
    config.model.dropout = 0.1

    config.training.num_steps = 800
    config.training.anneal_steps = 800
    config.training.warmup_steps = 100
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.weight_decay = 0.05
    config.training.ema = 0.99
    config.training.log_every = 50
    config.training.checkpoint_every = 400
    config.training.snapshot_every = 400
    config.training.preview_every = 400
    return config
