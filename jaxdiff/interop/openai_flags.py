"""The config of a network from the flags of guided-diffusion's programs; docs/openai.md has all.

config_of("--image_size 64 --num_channels 192 --class_cond True ...", state_dict)
"""

import dataclasses
import shlex

from jaxdiff.config import ADM, DDPM, DataConfig, RunConfig, TrainingConfig
from jaxdiff.config.fields import nearest, shown
from jaxdiff.config.overrides import parsed
from jaxdiff.errors import UserError
from jaxdiff.interop.openai import classifier_network, unet_network

# As the programs have them. Those of a super-resolution model have large_size and small_size.
DEFAULTS = {
    "image_size": 64,
    "large_size": 0,
    "small_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
    "rescale_timesteps": False,
    "rescale_learned_sigmas": False,
    "classifier_use_fp16": False,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
}
CHANNEL_MULT = {  # where --channel_mult is empty
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def config_of(text, state_dict):
    """The config of a run of the network that these flags make.

    Whether it is a classifier, and the number of classes, which is no flag there, are seen in its
    tensors.

    Args:
      text: the flags of a model, as on the command line of those programs.
      state_dict: {name: array} of the network.

    Returns:
      (RunConfig, whether its attention is in the new order).

    Raises:
      UserError: for a flag that no network has, or a value that it cannot have.
    """
    flags = _parsed(text)
    size = flags.large_size or flags.image_size
    is_classifier = not any(name.startswith("output_blocks.") for name in state_dict)
    if is_classifier:
        network = _classifier(flags, size, state_dict)
    else:
        network = _unet(flags, size, state_dict)
    steps = flags.timestep_respacing
    dropout = 0.0 if is_classifier else flags.dropout
    config = RunConfig(
        data=DataConfig(
            name="imported", image_size=size, low_res_size=flags.large_size and flags.small_size
        ),
        model=dataclasses.replace(network.config, dropout=dropout),
        diffusion=_process(flags, learned=flags.learn_sigma or is_classifier),
        training=TrainingConfig(ema=0.0) if is_classifier else TrainingConfig(),
        sampling=DDPM(steps=int(steps) if steps.isdecimal() else steps) if steps else DDPM(),
    )
    return config, flags.use_new_attention_order and not is_classifier


class _Flags(dict):
    __getattr__ = dict.__getitem__


def _parsed(text):
    flags, words = _Flags(DEFAULTS), shlex.split(text.replace("=", " "))
    for flag, value in zip(words[::2], [*words[1::2], ""], strict=False):
        name = flag.removeprefix("--")
        if name not in DEFAULTS:
            raise UserError(
                f"--flags has {shown(flag)}, which is no flag of a network: leave it out, or "
                f"{nearest(name, list(DEFAULTS))}"
            )
        flags[name] = parsed(value, type(DEFAULTS[name]), f"--flags: {flag}")
    return flags


def _numbers(flags, name):
    return tuple(int(part) for part in parsed(flags[name], tuple[int, ...], f"--flags: --{name}"))


def _classes(state_dict, name):
    return len(state_dict[name]) if name in state_dict else 0


def _common(flags, size, prefix=""):
    # Super-resolution to 512 has one level less, as a coarser one has nothing to add.
    usual = CHANNEL_MULT.get(min(size, 256) if flags.large_size else size)
    mult = _numbers(flags, "channel_mult") or usual
    if not mult:
        raise UserError(f"--flags makes images of {size}: give --channel_mult too, such as 1,2,2.")
    rates = [size // max(1, each) for each in _numbers(flags, f"{prefix}attention_resolutions")]
    return {
        "image_size": size,
        "in_channels": 3,
        "channel_mult": mult,
        "attention_resolutions": rates,
        "use_scale_shift_norm": flags[f"{prefix}use_scale_shift_norm"],
        "resblock_updown": flags[f"{prefix}resblock_updown"],
    }


def _unet(flags, size, state_dict):
    return unet_network(
        out_channels=6 if flags.learn_sigma else 3,
        num_classes=_classes(state_dict, "label_emb.weight") if flags.class_cond else None,
        super_resolution=flags.large_size > 0,
        model_channels=flags.num_channels,
        num_res_blocks=flags.num_res_blocks,
        num_heads=flags.num_heads,
        num_heads_upsample=flags.num_heads_upsample,
        num_head_channels=flags.num_head_channels,
        **_common(flags, size),
    )


def _classifier(flags, size, state_dict):
    heads = {"attention": "out.2.c_proj.bias", "spatial": "out.2.bias"}
    return classifier_network(
        out_channels=_classes(state_dict, heads.get(flags.classifier_pool, "out.3.bias")) or 1000,
        model_channels=flags.classifier_width,
        num_res_blocks=flags.classifier_depth,
        num_head_channels=64,
        pool=flags.classifier_pool,
        **_common(flags, size, "classifier_"),
    )


def _process(flags, learned):
    mse = ("hybrid" if flags.rescale_learned_sigmas else "hybrid_unscaled") if learned else "simple"
    return ADM(
        schedule=flags.noise_schedule,
        num_timesteps=flags.diffusion_steps,
        rescale_timesteps=flags.rescale_timesteps,
        prediction="x0" if flags.predict_xstart else "eps",
        variance="learned_range" if learned else "fixed_large",
        loss="vlb" if flags.use_kl else mse,
    )
