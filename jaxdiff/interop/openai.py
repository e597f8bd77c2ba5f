"""The released networks of "Diffusion Models Beat GANs" (arXiv:2105.05233): import and export.

As commands, which docs/openai.md explains:

    python -m jaxdiff.interop.openai import FILE --out RUN --config CONFIG --attention_order legacy
    python -m jaxdiff.interop.openai export RUN --out FILE --attention_order legacy

And as functions:

    apply, params = unet(state_dict, image_size=64, ...)    # arguments named as in that code
    output = apply(params, x, timesteps, labels)            # x [B, H, W, C]

The way back is `to_state_dict`. Both follow one table of names and layouts, in openai_names.py.
"""

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.config import ClassifierConfig, Image, Label, Signature, UNetConfig
from jaxdiff.config.fields import shown
from jaxdiff.errors import UserError
from jaxdiff.interop.openai_names import tensors
from jaxdiff.models.network import Network

WEIGHT_DTYPES = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)))
LISTED = 5  # tensors that a message names
WITHOUT_INFLUENCE = {"use_new_attention_order", "dropout", "use_fp16", "use_checkpoint"}


def unet(state_dict, *, use_new_attention_order=False, **options):
    """Imports a diffusion model.

    Args:
      state_dict: {name: array} of a UNetModel.
      use_new_attention_order, **options: the arguments that the UNetModel was made with; see
        `unet_network`.

    Returns:
      (apply, params): params is a nested dict of float32 NumPy arrays, and apply maps
      (params, x [B, H, W, C], timesteps [B], labels int [B] or None, low_res=None) to
      [B, H, W, out_channels].

    Raises:
      UserError: if the state dict is not that of a network with these options.
    """
    network = unet_network(**options)
    params = from_state_dict(network, state_dict, new_order=use_new_attention_order)
    names = [condition.name for condition in network.config.conditions]

    def apply(params, x, timesteps, labels=None, low_res=None):
        given = {"label": labels, "image": low_res}
        if missing := [name for name in names if given[name] is None]:
            raise UserError(f"The network is conditioned on {missing[0]}: give it to apply.")
        condition = network.embed(params, {name: given[name] for name in names})
        return network.apply(params, x, timesteps, condition)

    return apply, params


def superres(state_dict, **options):
    """Imports a SuperResModel; as `unet`, and `apply` takes low_res=[B, h, w, C] too."""
    return unet(state_dict, super_resolution=True, **options)


def classifier(state_dict, *, use_new_attention_order=False, **options):
    """Imports an EncoderUNetModel; as `unet`, and `apply` returns logits [B, classes].

    Labels are not needed, and ignored if given.
    """
    network = classifier_network(**options)
    params = from_state_dict(network, state_dict, new_order=use_new_attention_order)

    def apply(params, x, timesteps, labels=None):
        return network.apply(params, x, timesteps)

    return apply, params


def unet_network(*, out_channels, num_classes=None, super_resolution=False, **options):
    """The network that a UNetModel or SuperResModel is.

    Args:
      out_channels, num_classes: as there.
      super_resolution: whether it is a SuperResModel.
      **options: the other arguments. Left out, they take the defaults that they have there.
    """
    shape, encoder, heads_upsample = _encoder(**options)
    conditions = (Label(num_classes),) if num_classes else ()
    conditions += (Image(shape[-1]),) if super_resolution else ()
    config = UNetConfig(num_heads_upsample=heads_upsample, conditions=conditions, **encoder)
    return _network(config, shape, out_channels)


def classifier_network(*, out_channels, pool="adaptive", **options):
    """The network that an EncoderUNetModel is; arguments as of `unet_network`."""
    shape, encoder, _ = _encoder(**options)
    config = ClassifierConfig(label=Label(out_channels), pool=pool, **encoder)
    return _network(config, shape, out_channels)


def _network(config, shape, out_channels):
    config.check_shape(shape)
    return Network(config, Signature(shape=shape, out_channels=out_channels))


def _encoder(
    *,
    image_size,
    in_channels,
    model_channels,
    num_res_blocks,
    attention_resolutions,
    channel_mult=(1, 2, 4, 8),
    conv_resample=True,
    num_heads=1,
    num_head_channels=-1,
    num_heads_upsample=-1,
    use_scale_shift_norm=False,
    resblock_updown=False,
    **others,
):
    """(shape of a sample, our settings of the encoder, the decoder's number of heads or 0)."""
    if unknown := others.keys() - WITHOUT_INFLUENCE:
        raise UserError(f"{min(unknown)} is no option of these networks: leave it out.")
    # Rates that no level has are left unused there.
    rates = {2**level for level in range(len(channel_mult))} & set(attention_resolutions)
    by_width = num_head_channels != -1
    settings = {
        "channels": model_channels,
        "channel_mult": tuple(channel_mult),
        "num_res_blocks": num_res_blocks,
        "attention_resolutions": tuple(image_size // rate for rate in sorted(rates)),
        "conv_resample": conv_resample,
        "resblock_updown": resblock_updown,
        "adaptive_norm": use_scale_shift_norm,
        **({"head_channels": num_head_channels} if by_width else {"num_heads": num_heads}),
    }
    heads_upsample = 0 if by_width or num_heads_upsample == -1 else num_heads_upsample
    return (image_size, image_size, in_channels), settings, heads_upsample


def from_state_dict(network, state_dict, *, new_order=False):
    """Our parameters of a state dict: a nested dict of float32 NumPy arrays.

    Args:
      network: a Network of a UNetConfig or ClassifierConfig.
      state_dict: {name: array}.
      new_order: whether its attention was made with use_new_attention_order.

    Raises:
      UserError: if the state dict is not that of the network, or a tensor holds what no weight
        is; it names the tensor.
    """
    table = list(tensors(network, new_order=new_order))
    _check_fit(state_dict, {tensor.name: tensor.their_shape for tensor in table})
    ours = {
        tensor.path: tensor.ours(_weights(tensor.name, state_dict[tensor.name])) for tensor in table
    }
    return unflatten_dict(ours, sep="/")


def _check_fit(state_dict, expected):
    """Raises UserError unless a state dict has the tensors {name: shape} that a network has."""
    found = {name: np.shape(array) for name, array in state_dict.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{shown(name)} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name])} and not {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"The state dict is not that of the network ({'; '.join(problems[:LISTED])}{more}): "
            "give the options that it was trained with."
        )


def _weights(name, array):
    """A tensor of a state dict as float32, if it holds weights: finite floating-point numbers."""
    array = np.asarray(array)
    if array.dtype not in WEIGHT_DTYPES:
        kinds = ", ".join(dtype.name for dtype in WEIGHT_DTYPES)
        raise UserError(f"{name} is of {array.dtype}, but weights are of {kinds}: save it again.")
    with np.errstate(over="ignore"):  # of float64, found below
        array = array.astype(np.float32, copy=False)
    if count := array.size - np.count_nonzero(np.isfinite(array)):
        raise UserError(
            f"{name} holds {count:,} numbers of {array.size:,} that are NaN, infinite or too large "
            "for float32: give a checkpoint from before its training failed."
        )
    return array


def to_state_dict(network, params, *, new_order=False):
    """The state dict {name: float32 array} of our parameters; arguments as of from_state_dict.

    Raises:
      UserError: if the other code has no such network.
    """
    check_exportable(network)
    ours = flatten_dict(params, sep="/")
    table = tensors(network, new_order=new_order)
    return {tensor.name: tensor.theirs(np.asarray(ours[tensor.path])) for tensor in table}


def check_exportable(network):
    """Raises UserError if the other code has no such network."""
    named = {tensor.path for tensor in tensors(network)}
    others = [path for path in flatten_dict(network.shapes, sep="/") if path not in named]
    if network.config.rescale_residuals:
        others.append("model.rescale_residuals")
    if network.signature.null:
        others.append("a null condition (diffusion.condition_dropout)")
    if others:
        raise UserError(f"The network has {others[-1]}, which released ones lack: export another.")


def main():
    """The commands `import` and `export`."""
    from jaxdiff.interop import openai_command

    openai_command.main()


if __name__ == "__main__":
    main()
