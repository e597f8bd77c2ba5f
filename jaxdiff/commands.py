"""The command `jaxdiff`, which runs the programs of the package without a clone of it."""

import importlib
import sys

from jaxdiff.config.fields import nearest

COMMANDS = {
    "train": "jaxdiff.training.command",
    "sample": "jaxdiff.sampling.command",
    "prepare": "jaxdiff.data.prepare",
    "ema": "jaxdiff.checkpoints.ema",
    "evaluate": "jaxdiff.evaluation.command",
    "classifier": "jaxdiff.evaluation.classifier",
    "likelihood": "jaxdiff.evaluation.likelihood",
    "sweep": "jaxdiff.evaluation.sweep",
    "plan": "jaxdiff.plan.command",
    "encode": "jaxdiff.sampling.encode",
    "openai": "jaxdiff.interop.openai",
}  # name: a module with a function main()


def main():
    """Runs the command that the first argument names."""
    name, *others = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: jaxdiff {{{','.join(COMMANDS)}}} ...\n\njaxdiff COMMAND --help says more.")
        return
    if name not in COMMANDS:
        print(
            f"jaxdiff: There is no command {name}: {nearest(name, list(COMMANDS))}", file=sys.stderr
        )
        sys.exit(1)
    sys.argv = [f"jaxdiff {name}", *others]
    importlib.import_module(COMMANDS[name]).main()
