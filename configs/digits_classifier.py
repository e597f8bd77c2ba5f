"""A classifier of noisy digits, to guide models of the digits with (Dhariwal & Nichol 2021).

    python train.py --config configs/digits_classifier.py --workdir runs/digits_classifier
    python -m jaxdiff.evaluation.classifier --model runs/digits_classifier

On two CPU cores: 1 min 50 s. Held-out accuracy, 16 draws of noise for each of 297 images, by
quarter of the timesteps from the cleanest: 98.2, 88.7, 55.9, 22.8 %.

It takes its noise process from runs/digits; `--config.diffusion.from_run=RUN` names another.
"""

from jaxdiff.config import base


def get_config():
    config = base()
    config.data.name = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10

    config.model.kind = "classifier"
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.head_channels = 32
    config.model.dropout = 0.1

    config.diffusion.from_run = "runs/digits"

    config.training.num_steps = 1500
    config.training.anneal_steps = 1500
    config.training.warmup_steps = 100
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.weight_decay = 0.05
    config.training.ema = 0.99
    config.training.log_every = 50
    config.training.checkpoint_every = 500
    config.training.snapshot_every = 500
    config.training.preview_every = 250
    return config
