"""Released checkpoints as runs, and runs as such checkpoints: the commands `import` and `export`.

An imported checkpoint is a run with one snapshot, so every program that takes a run takes it.
"""

import argparse
import contextlib

from jaxdiff import cli, factory, files
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.run import Run, read_ema, resolve
from jaxdiff.config import ADM, ClassifierConfig, UNetConfig
from jaxdiff.errors import UserError
from jaxdiff.interop import openai, openai_state
from jaxdiff.interop.openai_flags import config_of
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.tensor_files import torch_file

ORDERS = {"legacy": False, "new": True}


def parser():
    """The flags of both commands."""
    parser = argparse.ArgumentParser(
        prog="openai", description="Imports and exports ADM's checkpoints; see docs/openai.md."
    )
    cli.add_config(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="import|export")
    order = {
        "choices": ORDERS,
        "help": "Order of queries, keys and values in the file; new: with use_new_attention_order.",
    }
    add = commands.add_parser("import", help="Makes a run of a file.")
    add.add_argument("file", metavar="FILE", help="That torch.save wrote.")
    add.add_argument("--out", required=True, metavar="RUN", help="Folder of the run; new.")
    add.add_argument(
        "--flags", help="Instead of --config: the flags that guided-diffusion made the model with."
    )
    add.add_argument("--attention_order", **order)
    add.add_argument("--entry", help="Place of the network, in a file that holds several.")
    add.add_argument("--step", type=int, default=0, help="Of training; default: 0.")
    add = commands.add_parser("export", help="Writes the network of a run as a file.")
    add.add_argument("run", metavar="RUN", help="RUN or RUN@STEP.")
    add.add_argument("--out", required=True, metavar="FILE", help="The file; new.")
    add.add_argument("--attention_order", required=True, **order)
    return parser


def main(args):
    """Imports a file, or exports a run."""
    if args.command == "export":
        export_run(args.run, args.out, new_order=ORDERS[args.attention_order])
        return
    if (args.config is None) == (args.flags is None):
        raise UserError(
            f"{args.file} does not say what network it holds: give either --config, such as "
            "configs/adm/imagenet64.py, or --flags, the flags of the program that trained it."
        )
    if (args.config is None) == (args.attention_order is not None):
        raise UserError(
            "--attention_order is given with --config, and only with it: of the released "
            "networks, 64x64_diffusion.pt has the new order and all others the legacy one."
        )
    new_order = args.attention_order and ORDERS[args.attention_order]
    import_file(
        args.file,
        args.out,
        config=args.config,
        new_order=new_order,
        flags=args.flags,
        entry=args.entry,
        step=args.step,
    )


def import_file(path, out, *, config=None, new_order=False, flags=None, entry=None, step=0):
    """Makes a run whose averaged network is that of a PyTorch file.

    Args:
      path: of the file.
      out: the run's folder; made, or empty.
      config: RunConfig of the network; None: made of `flags`.
      new_order: whether its attention was made with use_new_attention_order, where there is a
        config.
      flags: text, the flags that guided-diffusion made it with.
      entry: place of the network in the file, such as `ema/module.`; None: there is only one.
      step: that the network has in the run.

    Raises:
      UserError: if one of them cannot be used, or they do not fit.
    """
    out = files.parse_path(out, "--out")
    Run(out).check_name("--out")
    state_dict = openai_state.find(torch_file.read_nested(path), path, entry)
    if config is None:
        config, new_order = config_of(flags, state_dict)
    _check_kind(config)
    network = factory.network(config)
    params = openai.from_state_dict(network, state_dict, new_order=new_order)
    profile = str(config.training.ema)
    with files.new_folder(out, last="config.json") as folder:
        run = Run(folder)
        with contextlib.closing(Checkpointer(run.snapshots)) as snapshots:
            meta = {"step": step, "batch": step, "ema": [profile]}
            snapshots.save(step, {"ema": {profile: params}}, meta)
        run.write_config(config)
    print(f"Imported {path}: {out}@{step}")


def export_run(reference, out, *, new_order=False):
    """Writes the averaged network of a run as a PyTorch file.

    Args:
      reference: RUN or RUN@STEP.
      out: the file, which must not exist.
      new_order: whether its attention is to be read with use_new_attention_order.

    Raises:
      UserError: if one of them cannot be used, or no released network is like that one.
    """
    reference, out = resolve(reference), files.parse_path(out, "--out")
    config = reference.run.config()
    _check_kind(config)
    if reference.dropout:
        raise UserError(f"{reference} has dropout, which no file says: leave it out.")
    network = factory.network(config)
    params = read_ema(reference, network.shapes, make_mesh())
    torch_file.write(out, openai.to_state_dict(network, params, new_order=new_order), new=True)
    print(f"Exported {reference}: {out}")


def _check_kind(config):
    if not isinstance(config.diffusion, ADM) or not isinstance(
        config.model, UNetConfig | ClassifierConfig
    ):
        raise UserError(
            f"The config has the process {config.diffusion.kind} and the network "
            f"{config.model.kind}: checkpoints of that code are of the process adm and the "
            "networks unet and classifier."
        )
