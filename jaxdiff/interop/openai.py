"""The released networks of "Diffusion Models Beat GANs" (arXiv:2105.05233): import and export.

As commands, which docs/openai.md explains:

    python -m jaxdiff.interop.openai import FILE --out RUN
    python -m jaxdiff.interop.openai export RUN --out FILE

And as functions:

    apply, params = unet(state_dict, image_size=64, ...)    # options named as in that code
    output = apply(params, x, timesteps, labels)            # x [B, H, W, C]

The way back is `to_state_dict`. Both follow one table of names and layouts, in openai_names.py.
"""

import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.errors import UserError
from jaxdiff.interop.openai_fit import check_fit
from jaxdiff.interop.openai_names import tensors
from jaxdiff.models.classifier import ClassifierSpec, EncoderClassifier
from jaxdiff.models.network import Network
from jaxdiff.models.unet import UNet, UNetSpec

WEIGHT_DTYPES = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)))


def unet(state_dict, *, use_new_attention_order=False, **options):
    """Imports a diffusion model.

    Args:
      state_dict: {name: array} of a UNetModel.
      use_new_attention_order, **options: the arguments that the UNetModel was made with; see
        `unet_network`.

    Returns:
      (apply, params): params is a nested dict of float32 NumPy arrays, and apply maps
      (params, x [B, H, W, C], timesteps [B], labels [B] or None) to [B, H, W, out_channels].

    Raises:
      UserError: if the state dict is not that of a network with these options.
    """
    network = unet_network(**options)
    params = from_state_dict(network, state_dict, new_order=use_new_attention_order)

    def apply(params, x, timesteps, labels=None, **inputs):
        if labels is None and network.spec.num_classes:
            raise UserError("This network was trained with labels: give it labels.")
        return network.apply(params, x, timesteps, network.embed(params, labels), **inputs)

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
      **options: the other arguments, all but those without influence on what is computed. Left
        out, they take the defaults that they have there.
    """
    common, heads_upsample = _encoder_options(**options)
    spec = UNetSpec(
        out_channels=out_channels,
        num_classes=num_classes,
        num_heads_upsample=heads_upsample,
        super_resolution=super_resolution,
        **common,
    )
    return Network(lambda rngs: UNet(spec, rngs=rngs), spec)


def classifier_network(*, out_channels, pool="adaptive", **options):
    """The network that an EncoderUNetModel is; arguments as of `unet_network`."""
    spec = ClassifierSpec(num_classes=out_channels, pool=pool, **_encoder_options(**options)[0])
    return Network(lambda rngs: EncoderClassifier(spec, rngs=rngs), spec)


def _encoder_options(
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
    **without_influence,
):
    """The options as our specifications name them, and the decoder's number of heads."""
    known = {"use_new_attention_order", "dropout", "use_fp16", "use_checkpoint"}
    if unknown := without_influence.keys() - known:
        raise UserError(f"{min(unknown)} is no option of these networks: leave it out.")
    # Rates that no level has are left unused there.
    rates = {2**level for level in range(len(channel_mult))} & set(attention_resolutions)
    by_width = num_head_channels != -1
    spec = {
        "image_size": image_size,
        "in_channels": in_channels,
        "channels": model_channels,
        "channel_mult": tuple(channel_mult),
        "num_res_blocks": num_res_blocks,
        "attention_resolutions": tuple(image_size // rate for rate in sorted(rates)),
        "conv_resample": conv_resample,
        "resblock_updown": resblock_updown,
        "adaptive_norm": use_scale_shift_norm,
        **({"head_channels": num_head_channels} if by_width else {"num_heads": num_heads}),
    }
    return spec, None if by_width or num_heads_upsample == -1 else num_heads_upsample


def from_state_dict(network, state_dict, *, new_order=False):
    """Our parameters of a state dict: a nested dict of float32 NumPy arrays.

    Args:
      network: a Network of a UNetSpec or ClassifierSpec.
      state_dict: {name: array}.
      new_order: whether its attention was made with use_new_attention_order.

    Raises:
      UserError: if the state dict is not that of the network, or a tensor holds what no weight
        is; it names the tensor.
    """
    table = list(tensors(network, new_order=new_order))
    expected = {tensor.name: tensor.their_shape for tensor in table}
    check_fit({name: np.shape(array) for name, array in state_dict.items()}, expected)
    ours = {
        tensor.path: tensor.ours(weights(tensor.name, state_dict[tensor.name])) for tensor in table
    }
    return unflatten_dict(ours, sep="/")


def weights(name, array):
    """A tensor of a state dict as float32, if it holds weights: finite floating-point numbers."""
    array = np.asarray(array)
    if array.dtype not in WEIGHT_DTYPES:
        kinds = ", ".join(dtype.name for dtype in WEIGHT_DTYPES)
        raise UserError(f"{name} is of {array.dtype}, but weights are of {kinds}: save it again.")
    with np.errstate(over="ignore"):  # of float64, found below
        array = array.astype(np.float32, copy=False)
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        raise UserError(
            f"{name} holds {bad:,} numbers of {array.size:,} that are NaN, infinite or too large "
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
    if network.spec.rescale_residuals:
        raise UserError("Networks with rescale_residuals have no counterpart: export another.")
    if getattr(network.spec, "null_class", False):
        raise UserError(
            "The label table has a row for the null class, which released networks lack: export a "
            "network that was trained without label_dropout."
        )


if __name__ == "__main__":
    from absl import flags

    from jaxdiff.interop import openai_command

    flags.adopt_module_key_flags(openai_command)  # so that --help lists them
    openai_command.run()
