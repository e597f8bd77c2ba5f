"""Prints the accuracy of a noisy classifier on held-out images, by their noise.

    python -m jaxdiff.evaluation.classifier --model runs/NAME

Each image of the split is noised `repeats` times, at timesteps drawn uniformly. The table has a row
for each quarter of the timesteps, the cleanest first. If the data are prepared by a function
(data.prepare), give --import MODULE.
"""

from typing import Annotated

from jaxdiff import cli
from jaxdiff.config import Range


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="The classifier's run: its folder, or FOLDER@STEP")
    cli.add_flag(parser, "split", help="Split of its dataset; default: its data.held_out")
    cli.add_flag(
        parser, "repeats", Annotated[int, Range(1, 10_000)], 16, "How often each image is noised"
    )
    cli.add_imports(parser)
    cli.run(_print_table, parser)


def _print_table(args):
    model = cli.require("model", args.model, "the folder of a classifier's run")
    cli.start_jax(False)
    from jaxdiff.evaluation.noisy_accuracy import accuracies

    shares = accuracies(model, args.split, args.repeats)
    print("quarter of t   top-1   top-5")
    for q in range(4):
        print(f"{q:12d}  {shares[f'top1_q{q}']:6.1%}  {shares[f'top5_q{q}']:6.1%}")


if __name__ == "__main__":
    main()
