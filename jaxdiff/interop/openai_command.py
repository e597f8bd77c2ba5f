"""The commands `import` and `export` of `python -m jaxdiff.interop.openai`."""

from absl import flags
from ml_collections import config_flags

from jaxdiff import cli
from jaxdiff.errors import UserError
from jaxdiff.interop.openai_run import export_run, import_file

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="import: the config of the network, such as configs/adm/imagenet64.py."
)
OUT = flags.DEFINE_string("out", None, "import: folder of the run; export: the file. New.")
STEP = flags.DEFINE_integer(
    "step", None, "import: of training; default: the config's training.num_steps.", lower_bound=0
)
ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    ["legacy", "new"],
    "Order of queries, keys and values in the file; new: made with use_new_attention_order. "
    "Default: that of the released network of the config's sizes, which is new for 64 x 64 only.",
)


def run():
    """Runs the command line."""
    cli.run(main, "`import` or `export`", "a file to import, or a run to export")


def main(command, source):
    """Imports a file, or exports a run."""
    new_order = None if ATTENTION_ORDER.value is None else ATTENTION_ORDER.value == "new"
    if command not in ("import", "export"):
        raise UserError(f"The command {command} is unknown: give `import` or `export`.")
    if command == "export":
        out = cli.require("out", OUT.value, "a new file such as exported.pt")
        export_run(source, out, new_order=new_order)
    else:
        config = cli.require_config(CONFIG)
        out = cli.require("out", OUT.value, "a new folder such as runs/imported")
        import_file(source, config, out, step=STEP.value, new_order=new_order)
