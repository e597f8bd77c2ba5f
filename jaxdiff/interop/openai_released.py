"""What the released networks of ADM have that their tensors do not say, found by those they have.

From arXiv:2105.05233, tables 11 to 13, and the flags released with the checkpoints.
"""

import dataclasses

SIX_LEVELS = (1, 1, 2, 2, 4, 4)
SEVEN_LEVELS = (0.5, 1, 1, 2, 2, 4, 4)


@dataclasses.dataclass(frozen=True)
class Released:
    """A released network, or several with the same tensors.

    Attributes:
      name: of its config in configs/adm.
      image_size, channels, channel_mult, num_res_blocks, attention_resolutions, num_heads,
        low_res_size, schedule: as in a config; num_heads 0: heads of 64 channels.
      kind: `unet` or `classifier`.
      num_classes: 0 without labels.
      new_order: whether its attention was made with use_new_attention_order. No file says it.
    """

    name: str
    image_size: int
    channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    num_heads: int = 0
    low_res_size: int = 0
    schedule: str = "linear"
    kind: str = "unet"
    num_classes: int = 1000
    new_order: bool = False

    @property
    def tensors(self):
        """What its tensors say of it, in the form of `signature`."""
        rates = tuple(sorted(self.image_size // size for size in self.attention_resolutions))
        enlarges = self.low_res_size > 0
        sizes = (self.channels, self.channel_mult, self.num_res_blocks, rates)
        return (self.kind, *sizes, self.num_classes, enlarges)


RELEASED = (
    Released("imagenet64", 64, 192, (1, 2, 3, 4), 3, schedule="cosine", new_order=True),
    Released("imagenet128", 128, 256, (1, 1, 2, 3, 4), num_heads=4),
    Released("imagenet256", 256, 256, SIX_LEVELS),
    Released("imagenet256_unconditional or lsun", 256, 256, SIX_LEVELS, num_classes=0),
    Released("imagenet512", 512, 256, SEVEN_LEVELS),
    Released("upsample64_256", 256, 192, SIX_LEVELS, num_heads=4, low_res_size=64),
    Released(
        "upsample128_512", 512, 192, SIX_LEVELS, attention_resolutions=(32, 16), low_res_size=128
    ),
    Released("classifier64", 64, 128, (1, 2, 3, 4), 4, schedule="cosine", kind="classifier"),
    Released("classifier128", 128, 128, (1, 1, 2, 3, 4), kind="classifier"),
    Released("classifier256", 256, 128, SIX_LEVELS, kind="classifier"),
    Released("classifier512", 512, 128, SEVEN_LEVELS, kind="classifier"),
)


def signature(config, rates, enlarges):
    """What tensors say of a network.

    Args:
      config: with the fields that they say.
      rates: image size / resolution of each level with attention.
      enlarges: whether it is one of super-resolution.
    """
    model = config.model
    sizes = (model.channels, tuple(model.channel_mult), model.num_res_blocks, tuple(sorted(rates)))
    return (model.kind, *sizes, config.data.num_classes, enlarges)


def released(signature):
    """The Released with these tensors, or None."""
    return next((one for one in RELEASED if one.tensors == signature), None)


def released_new_order(config):
    """Whether the released network of a config's sizes has the new order of attention.

    Of all released networks that is the diffusion model of 64 x 64 alone; no file says it.
    """
    data, rates = (
        config.data,
        [config.data.image_size / r for r in config.model.attention_resolutions],
    )
    known = released(signature(config, rates, data.low_res_size > 0))
    return known is not None and known.new_order and known.image_size == data.image_size
