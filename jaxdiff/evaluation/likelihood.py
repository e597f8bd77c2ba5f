"""Measures the likelihood of a split of a model's dataset, in bits per dimension.

    python -m jaxdiff.evaluation.likelihood --model runs/NAME --split test

If the data are prepared by a function (data.prepare), give --import MODULE.
"""

from typing import Annotated

from jaxdiff import cli
from jaxdiff.config import Range

Count = Annotated[int, Range(1, 2**31 - 1)]


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="The run to measure: its folder, or FOLDER@STEP")
    cli.add_flag(parser, "split", help="Of the run's dataset, such as test")
    cli.add_flag(parser, "out", help="File of all terms; default: likelihood_* in the run's folder")
    cli.add_flag(parser, "steps", int | str, help="Such as 250, ddim25 or 25,50; default: all")
    cli.add_flag(parser, "batch_size", Count, 128, "How many at once, over all devices")
    cli.add_flag(
        parser,
        "seed",
        Annotated[int, Range(0, 2**31 - 1)],
        0,
        "Image n has the same noise in every batch size",
    )
    cli.add_flag(parser, "num_images", Count, help="The first so many of the split; default: all")
    cli.add_imports(parser)
    cli.add_distributed(parser)
    cli.run(_measure, parser)


def _measure(args):
    model = cli.require("model", args.model, "the folder of a run")
    split = cli.require("split", args.split, "a part of the run's dataset, such as test")
    cli.start_jax(args.distributed, args.compilation_cache)
    from jaxdiff.evaluation import bits

    bits.run(
        model,
        split,
        out=args.out,
        steps=args.steps,
        batch_size=args.batch_size,
        seed=args.seed,
        num_images=args.num_images,
    )


if __name__ == "__main__":
    main()
