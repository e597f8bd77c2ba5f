"""Trains a run: python train.py --config configs/digits.py --workdir runs/digits."""

import sys

from absl import flags
from ml_collections import config_flags

from jaxdiff import cli
from jaxdiff.training.interrupt import Interrupt

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The run's config; override a value with --config.SECTION.NAME=VALUE."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made, or continued.")
RESTART = flags.DEFINE_bool(
    "restart",
    False,
    "Move what the run holds into a folder before-restart-1 of it; begin at step 0.",
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")


def main():
    config = cli.require_config(CONFIG)
    workdir = cli.require("workdir", WORKDIR.value, "a folder such as runs/digits")
    with Interrupt(ends_program=True) as interrupt:
        cli.use_compilation_cache()
        # Imported here, so that --help and a misspelt flag are answered at once.
        from jaxdiff.parallel import processes
        from jaxdiff.training.loop import train

        processes.initialize(DISTRIBUTED.value)
        train(config, workdir, interrupt, RESTART.value)
    sys.exit(interrupt.status)


if __name__ == "__main__":
    cli.run(main)
