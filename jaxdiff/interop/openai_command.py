"""Released checkpoints as runs, and runs as such checkpoints.

    python -m jaxdiff.interop.openai import FILE --out RUN --config CONFIG --attention_order legacy
    python -m jaxdiff.interop.openai import FILE --out RUN --flags "--image_size 64 ..."
    python -m jaxdiff.interop.openai export RUN --out FILE --attention_order legacy

An imported checkpoint is a run with one snapshot, which can be sampled and can guide.
"""

import contextlib
from typing import Annotated, Literal

import jax

from jaxdiff import cli, factory, files
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.run import new_run, read_ema, resolve
from jaxdiff.claims import in_first
from jaxdiff.config import ADM, ClassifierConfig, Range, UNetConfig
from jaxdiff.errors import UserError
from jaxdiff.interop import openai, openai_state
from jaxdiff.interop.openai_flags import config_of
from jaxdiff.parallel.mesh import make_mesh, replicated
from jaxdiff.tensor_files import torch_file


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("command", choices=("import", "export"))
    parser.add_argument("source", help="File to import, or RUN or RUN@STEP to export")
    cli.add_config(parser, required=False)
    cli.add_flag(parser, "out", help="Folder of the run to make, or the file to write; new")
    cli.add_flag(
        parser, "flags", help="import: instead of --config, guided-diffusion's flags of the model"
    )
    cli.add_flag(
        parser,
        "attention_order",
        Literal["legacy", "new"] | None,
        help="Order of queries, keys and values in the file; new: use_new_attention_order",
    )
    cli.add_flag(parser, "entry", help="import: which network of a file that holds several")
    cli.add_flag(
        parser, "step", Annotated[int, Range(0, 2**31 - 1)], 0, "import: number of the run's step"
    )
    cli.run(_run, parser)


def _run(args):
    is_import, order = args.command == "import", args.attention_order
    out = cli.require("out", args.out, "a new folder" if is_import else "a new file")
    if is_import and (args.config is None) == (args.flags is None):
        raise UserError(
            f"{args.source} does not say what network it holds: give either --config, such as "
            "configs/adm/imagenet64.py, or --flags, those of the program that trained it."
        )
    if (order is None) == (args.flags is None):
        raise UserError(
            f"--attention_order is {order}: it is given unless --flags say it; of the released "
            "networks, 64x64_diffusion.pt has the order new, all others legacy."
        )
    if not is_import:
        export_run(args.source, out, new_order=order == "new")
        return
    import_file(
        args.source,
        out,
        config=args.config,
        new_order=order == "new",
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
    state_dict = openai_state.find(torch_file.read_nested(path), path, entry)
    if config is None:
        config, new_order = config_of(flags, state_dict)
    _check_kind(config)
    network = factory.network(config)
    params = openai.from_state_dict(network, state_dict, new_order=new_order)
    profile = str(config.training.ema)
    with new_run(out) as run:
        with contextlib.closing(Checkpointer(run.snapshots)) as snapshots:
            snapshots.save(step, {"ema": {profile: params}}, {"ema": [profile]})
        # Last: the folder is a run once the network is there.
        in_first(run.write_config, config)
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
        raise UserError(f"{reference} has dropout, which no checkpoint holds: leave it out.")
    network = factory.network(config)
    openai.check_exportable(network)
    sharding = replicated(make_mesh())
    shardings = jax.tree.map(lambda _: sharding, network.shapes)
    params = read_ema(reference, network.shapes, shardings)
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
