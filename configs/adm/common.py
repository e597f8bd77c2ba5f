"""What the released models of "Diffusion Models Beat GANs" (arXiv:2105.05233) have in common.

The settings are those of its appendix I, tables 11 to 13, and of the code released with it. That
trained in 16-bit precision; here that is `--config.training.dtype=bfloat16`. The default is
float32, so that an imported network computes what its authors' does.

TFDS prepares ImageNet from its archives, which everyone has to request and to place by hand:
https://www.tensorflow.org/datasets/catalog/imagenet2012.

None of these trainings was run here; docs/plan.md says on what devices they fit.
"""

from jaxdiff.config import (
    ADM,
    DDPM,
    ClassifierConfig,
    DataConfig,
    Image,
    Label,
    RunConfig,
    TrainingConfig,
    UNetConfig,
    replaced,
)

LABEL = Label(1000)
CHANNEL_MULT = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def unet(image_size, values):
    """A diffusion model of ImageNet's images and labels; `values` as in `replaced`."""
    config = RunConfig(
        # Not `imagenet_resized`: its images were made smaller in another way than the paper's.
        data=DataConfig(name="imagenet2012", image_size=image_size, augment="flip", workers=8),
        model=UNetConfig(
            channels=256,
            channel_mult=CHANNEL_MULT[image_size],
            attention_resolutions=(32, 16, 8),
            conditions=(LABEL,),
        ),
        diffusion=ADM(schedule="linear"),
        training=TrainingConfig(batch_size=256, learning_rate=1e-4, clip_norm=0.0),
    )
    return replaced(config, values)


def upsampler(image_size, low_res_size, values):
    """A diffusion model that enlarges ImageNet's images."""
    return unet(
        image_size,
        {
            "data.low_res_size": low_res_size,
            "model.channels": 192,
            # One level less than a model of 512 pixels: a coarser one has nothing to add to 128.
            "model.channel_mult": CHANNEL_MULT[256],
            "model.conditions": (LABEL, Image(3)),
            **values,
        },
    )


def lsun(category, num_steps):
    """A diffusion model of one category of LSUN."""
    return unet(
        256,
        {
            "data.name": f"lsun/{category}",
            "model.conditions": (),
            "model.dropout": 0.1,
            "training.num_steps": num_steps,
            "sampling": DDPM(steps=1000),
        },
    )


def classifier(image_size, num_steps, values=None):
    """A classifier of noisy images; its noise is that of the diffusion model of that size."""
    model = ClassifierConfig(
        channels=128,
        channel_mult=CHANNEL_MULT[image_size],
        attention_resolutions=(32, 16, 8),
        pool="attention",
        label=LABEL,
    )
    config = unet(
        image_size,
        {
            "data.augment": "crop_flip",
            "data.held_out": "validation",
            "model": model,
            "training.num_steps": num_steps,
            "training.anneal_steps": num_steps,
            "training.learning_rate": 3e-4,
            "training.weight_decay": 0.05,
            "training.ema": 0.0,  # the weights themselves
        },
    )
    return replaced(config, values or {})
