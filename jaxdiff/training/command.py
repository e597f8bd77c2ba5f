"""Trains a model in the folder of a run, or continues the run that the folder holds.

python train.py --config configs/NAME.py --workdir runs/NAME
"""

import sys

from jaxdiff import cli
from jaxdiff.parallel import metadata
from jaxdiff.training.interrupt import Interrupt


def main():
    """The command line of training."""
    parser = cli.Parser(__doc__)
    cli.add_config(parser)
    cli.add_imports(parser)
    cli.add_flag(parser, "workdir", help="Folder of the run, made if it is not there")
    cli.add_flag(
        parser,
        "restart",
        bool,
        False,
        "Move what the run holds into its folder before-restart-1, and begin at step 0",
    )
    cli.add_flag(
        parser,
        "profile",
        tuple[int, ...],
        (),
        "START,STEPS: write a trace of steps START + 1 to START + STEPS for TensorBoard",
    )
    cli.add_distributed(parser)
    cli.run(_train, parser)


def _train(args):
    workdir = cli.require("workdir", args.workdir, "a folder such as runs/NAME")
    with Interrupt(ends_program=True) as interrupt:
        cluster = cli.start_jax(args.distributed, args.compilation_cache)
        metadata.watch(cluster)
        from jaxdiff.training.loop import train

        train(args.config, workdir, interrupt, args.restart, args.profile)
    sys.exit(interrupt.status)
