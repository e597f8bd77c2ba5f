"""What the released models of "Diffusion Models Beat GANs" (arXiv:2105.05233) have in common.

The settings are those of its appendix I, tables 11 to 13, and of the code released with it. That
trained in 16-bit precision; here that is `--config.training.dtype=bfloat16`. The default is
float32, so that an imported network computes what its authors' does.

TFDS prepares ImageNet from its archives, which everyone has to request and to place by hand:
https://www.tensorflow.org/datasets/catalog/imagenet2012.

None of these trainings was run here.
"""

from jaxdiff.config import base

CHANNEL_MULT = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def unet(image_size):
    """A diffusion model of ImageNet's images and labels."""
    config = base()
    # Not `imagenet_resized`: its images were made smaller in another way than the paper's.
    config.data.name = "imagenet2012"
    config.data.image_size = image_size
    config.data.num_classes = 1000
    config.data.augment = "flip"
    config.data.workers = 8

    config.model.channels = 256
    config.model.channel_mult = CHANNEL_MULT[image_size]
    config.model.attention_resolutions = (32, 16, 8)

    config.diffusion.schedule = "linear"

    config.training.batch_size = 256
    config.training.learning_rate = 1e-4
    config.training.clip_norm = 0.0
    return config


def upsampler(image_size, low_res_size):
    """A diffusion model that enlarges ImageNet's images."""
    config = unet(image_size)
    config.data.low_res_size = low_res_size
    config.model.channels = 192
    # One level less than a model of 512 pixels: a coarser one has nothing to add to 128.
    config.model.channel_mult = CHANNEL_MULT[256]
    return config


def lsun(category):
    """A diffusion model of one category of LSUN."""
    config = unet(256)
    config.data.name = f"lsun/{category}"
    config.data.num_classes = 0
    config.model.dropout = 0.1
    config.sampling.steps = "1000"
    return config


def classifier(image_size, num_steps):
    """A classifier of noisy images; its noise is that of the diffusion model of that size."""
    config = unet(image_size)
    config.data.augment = "crop_flip"
    config.data.held_out = "validation"

    config.model.kind = "classifier"
    config.model.pool = "attention"
    config.model.channels = 128

    config.training.num_steps = num_steps
    config.training.anneal_steps = num_steps
    config.training.learning_rate = 3e-4
    config.training.weight_decay = 0.05
    config.training.ema = 0.0  # the weights themselves
    return config
