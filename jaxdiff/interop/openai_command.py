"""The commands `import` and `export` of `python -m jaxdiff.interop.openai`."""

from absl import flags
from ml_collections import config_flags

from jaxdiff import cli
from jaxdiff.errors import UserError
from jaxdiff.interop.openai_infer import Options
from jaxdiff.interop.openai_run import export_run, import_file

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="import: a config with the network's sizes, such as configs/adm/imagenet64.py. "
    "Default: they are read off the tensors, and what those do not say is said with the flags "
    "below.",
)
OUT = flags.DEFINE_string("out", None, "import: folder of the run; export: the file. New.")
STEP = flags.DEFINE_integer(
    "step",
    None,
    "import: of training. Default: what the file or its name says, or 0.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    ["legacy", "new"],
    "Order of queries, keys and values in the file; new: made with use_new_attention_order. "
    "Default: that of the released network of the config's sizes, which is new for 64 x 64 only.",
)

IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "import: height and width of images.", lower_bound=1, upper_bound=2**16
)
LOW_RES_SIZE = flags.DEFINE_integer(
    "low_res_size",
    None,
    "import: of super-resolution, the size that images are enlarged from.",
    lower_bound=1,
    upper_bound=2**16,
)
HEAD_CHANNELS = flags.DEFINE_integer(
    "head_channels", None, "import: width of an attention head.", lower_bound=1, upper_bound=2**20
)
NUM_HEADS = flags.DEFINE_integer(
    "num_heads", None, "import: or the number of heads.", lower_bound=1, upper_bound=2**20
)
SCHEDULE = flags.DEFINE_enum(
    "schedule", None, ["linear", "cosine"], "import: the noise schedule of training."
)
OPTIONS = (IMAGE_SIZE, LOW_RES_SIZE, HEAD_CHANNELS, NUM_HEADS, SCHEDULE)


def run():
    """Runs the command line."""
    cli.run(main, "`import` or `export`", "a file to import, or a run to export")


def main(command, source):
    """Imports a file, or exports a run."""
    new_order = None if ATTENTION_ORDER.value is None else ATTENTION_ORDER.value == "new"
    if command not in ("import", "export"):
        raise UserError(f"The command {command} is unknown: give `import` or `export`.")
    given = {flag.name: flag.value for flag in OPTIONS if flag.value is not None}
    with_config = CONFIG.value is not None
    if given and (with_config or command == "export"):
        raise UserError(
            f"--{min(given)} has no meaning {'with --config' if with_config else 'here'}: "
            f"{'set it in the config' if with_config else 'leave it out'}."
        )
    if command == "export":
        out = cli.require("out", OUT.value, "a new file such as exported.pt")
        export_run(source, out, new_order=new_order)
        return
    out = cli.require("out", OUT.value, "a new folder such as runs/imported")
    if NUM_HEADS.value and HEAD_CHANNELS.value:
        raise UserError("--num_heads and --head_channels say the same in two ways: give one.")
    config = cli.require_config(CONFIG) if with_config else None
    import_file(source, config, out, step=STEP.value, new_order=new_order, options=Options(**given))
