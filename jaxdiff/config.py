"""What can be configured: every section and field, its default, and what is refused.

A run's config file starts from `base()` and sets what differs. This module imports no JAX, so
that command lines answer quickly; `jaxdiff.factory` makes networks and processes of a config.
"""

from ml_collections import ConfigDict

from jaxdiff import config_checks, files
from jaxdiff.config_checks import CHOICES, NUMBER_LISTS, RANGES, SAMPLERS  # noqa: F401
from jaxdiff.errors import UserError
from jaxdiff.version import __version__


def base():
    """The config of a run, with defaults; locked, so that a misspelt field is an error."""
    config = ConfigDict()
    config.seed = 0

    config.data = data = ConfigDict()
    # `digits`, a TFDS dataset prepared as ArrayRecord, or the folder of one; or points: `toy_a`,
    # `toy_ab`, which the fields about images do not concern
    data.name = ""
    data.image_size = 64
    # what becomes of images of another size: `crop`: scaled, and the middle cut out, as ADM does;
    # `pad`: framed with black where smaller (28 to 32: 2 pixels a side), else cropped, never scaled
    data.fit = "crop"
    data.channels = 3  # 1 or 3; images are converted
    data.num_classes = 0  # 0: no labels
    data.low_res_size = 0  # super-resolution: the size that images are enlarged from; 0: none
    # `flip`: mirror half of the images left to right; `crop_flip`: and cut out .8 to 1 of a side
    data.augment = "none"
    data.held_out = "test"  # split that a classifier's accuracy is measured on
    data.workers = 0  # processes that read and decode; 0: a thread

    config.model = model = ConfigDict()
    # `classifier`: of noisy images, to guide with; `toy`: of points, with `channels` and the
    # last two alone
    model.kind = "unet"
    model.channels = 128  # width where channel_mult is 1
    model.channel_mult = (1, 2, 3, 4)
    model.num_res_blocks = 2
    model.attention_resolutions = (16, 8)
    model.head_channels = 64  # width of an attention head
    model.num_heads = 0  # or their number, in every attention; 0: by width
    model.num_heads_upsample = 0  # their number in the decoder; 0: as elsewhere
    model.resblock_updown = True  # change the resolution in residual blocks, as BigGAN does
    model.conv_resample = True  # else, in layers of its own: with a convolution or without
    model.adaptive_norm = True  # AdaGN: the embedding scales and shifts; False: it is added
    model.rescale_residuals = False  # divide residual sums by sqrt 2
    model.pool = "attention"  # of a classifier; or `adaptive`, `spatial`, `spatial_v2`
    model.dropout = 0.0
    # of `toy`: the gain before the first step, whose sign tends to stay (see models/toy.py), and
    # whether the last layer is followed by SiLU as well; the paper has 0 and False
    model.initial_gain = -0.1
    model.final_silu = False

    config.diffusion = diffusion = ConfigDict()
    diffusion.from_run = ""  # of a classifier: the run whose process it is to guide
    diffusion.process = "adm"  # or `edm`, with a network that predicts as EDM preconditions it
    diffusion.label_dropout = 0.0  # share of labels replaced by the null class
    # of `edm`: ln(sigma) ~ N(p_mean, p_std^2) in training, and the data's standard deviation
    diffusion.p_mean = -1.2
    diffusion.p_std = 1.2
    diffusion.data_std = 0.5  # 0: measured when the run begins
    diffusion.uncertainty = False  # learn weights of the noise levels, as EDM2 does
    # all that follows: of `adm`
    diffusion.schedule = "cosine"  # or `linear`
    diffusion.num_timesteps = 1000
    diffusion.rescale_timesteps = False  # the network sees t * 1000 / num_timesteps
    diffusion.prediction = "eps"  # what the network predicts: the noise, `x0`, or `v`
    diffusion.variance = "learned_range"  # or `learned`, `fixed_small`, `fixed_large`
    # L_simple, and for a learned variance T/1000 L_vb; or `hybrid_unscaled`: L_simple + L_vb,
    # `simple`: L_simple, `vlb`: T L_vb
    diffusion.loss = "hybrid"
    # which timesteps training draws: all alike, or `loss_second_moment`: in proportion to the loss
    diffusion.timestep_sampler = "uniform"

    config.training = training = ConfigDict()
    training.num_steps = 100_000
    training.batch_size = 256  # global: of all devices together
    training.learning_rate = 1e-4
    training.warmup_steps = 0  # linear, from 0
    training.anneal_steps = 0  # after warm-up, linear to 0 at this step; 0: constant
    training.inverse_sqrt_after = 0  # or from this step t_ref on, peak / sqrt(t / t_ref); 0: not
    training.beta1 = 0.9
    training.beta2 = 0.999
    training.weight_decay = 0.0
    training.clip_norm = 1.0  # of the gradient, global; 0: no clipping
    training.ema = 0.9999  # decay; warmed up, see docs/design.md
    training.power_ema = ()  # in its place, relative widths of power-function profiles: (0.05, 0.1)
    training.accumulate = 1  # parts that a batch is cut into, to save memory
    training.remat = False  # recompute blocks in the backward pass, to save memory
    training.dtype = "float32"  # or `bfloat16`; parameters are float32 in any case
    training.log_every = 100
    training.checkpoint_every = 5000  # the last three are kept
    training.snapshot_every = 10_000  # the EMA alone, kept for ever
    training.snapshot_dtype = "float32"  # or `bfloat16`: half the space, see docs/post_hoc_ema.md
    training.preview_every = 5000  # samples, or a classifier's accuracy on held-out images

    config.sampling = sampling = ConfigDict()  # defaults of sample.py and of previews
    sampling.sampler = "ddpm"  # or `ddim`, `heun`, `dpmpp`
    sampling.steps = "250"  # ddpm and ddim on ADM's process: or a respacing: `ddim25`, `25,50`
    sampling.eta = 0.0  # of ddim
    sampling.churn = ()  # of heun: S_churn, and if wanted S_min, S_max, S_noise; (): none
    sampling.sigma_min = 0.002  # heun and dpmpp, and every sampler of a process of sigma
    sampling.sigma_max = 80.0  # (a model of ADM's process confines both to its own levels)
    sampling.rho = 7.0
    sampling.clip = True  # confine predicted images to [-1, 1]

    config.mesh = mesh = ConfigDict()
    mesh.fsdp = 1  # devices along that axis; the rest is `data`
    return config.lock()


# What to do about a run's config.json that is not as it was written.
DAMAGED = (
    "restore the file from a copy, or, if you have changed it on purpose, take the line "
    f'"{files.CHECKSUM}" out of it'
)

# What a noise process is; a classifier guides only models of the same.
PROCESS_FIELDS = ("process", "schedule", "num_timesteps", "rescale_timesteps")

# A run may be continued with other values of these: they do not change what it computes.
FREE = (
    "training.num_steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.snapshot_every",
    "training.snapshot_dtype",
    "training.preview_every",
    "training.remat",
    "data.workers",
    "data.held_out",
    "sampling.",
    "mesh.",
)


def flatten(config):
    """All fields as {"section.name": value}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{field}": v for field, v in value.items()})
        else:
            flat[name] = value
    return flat


def check_fields(config):
    """Raises UserError unless a config has the sections and fields of `base`, of their types."""
    config_checks.check_fields(config, base())


def validate(config):
    """Raises UserError for the first section, field or value that cannot be right."""
    check_fields(config)
    config_checks.check_values(config, flatten(config))


def differences(old, new):
    """Fields in which two configs compute something different, as sentences' parts."""
    old, new = flatten(old), flatten(new)
    return [
        f"{name} ({old[name]} in the run, now {new[name]})"
        for name in new
        if not name.startswith(FREE) and old[name] != new[name]
    ]


def to_json(config):
    """The text of a run's config.json: every value, the package's version, and a checksum."""
    return files.json_text({"jaxdiff": __version__, **config.to_dict()})


def from_json(path):
    """The config in a run's config.json; fields that its sections lack take their defaults.

    A file without a checksum, written by an earlier version or edited by hand, is taken as it is.

    Raises:
      UserError: if the file is not what `to_json` wrote, or holds values that cannot be right.
    """
    values = files.read_json(path, ("jaxdiff", *base()), checksum=None, advice=DAMAGED)
    version, config = values.pop("jaxdiff"), base()
    try:
        for name in config:
            if isinstance(config[name], ConfigDict) and not isinstance(values[name], dict):
                raise TypeError(f"{name} is {values[name]}")
        if values["model"].get("kind") == "toy":
            # What the networks were before these could be set.
            values["model"] = {"final_silu": True, "initial_gain": 0.0, **values["model"]}
        config.update(_tuples(values))
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split(" and cannot be added")[0].strip("\"'").split())
        raise UserError(
            f"{path} was written by jaxdiff {version} and holds what {__version__} does not know "
            f"({reason[:200]}): use that version, or restore the file from a copy."
        ) from None
    try:
        validate(config)
    except UserError as error:
        raise UserError(f"{path} cannot be used, as {error}") from None
    return config


def _tuples(value):
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    return tuple(value) if isinstance(value, list) else value
