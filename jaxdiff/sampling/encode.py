"""Encodes images as the noise that leads to them, for sample.py --latents.

python -m jaxdiff.sampling.encode --model runs/NAME --images samples/NAME --out latents.npz
"""

from typing import Annotated

from jaxdiff import cli
from jaxdiff.config import Range


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="The run to encode with: its folder, or FOLDER@STEP")
    cli.add_flag(
        parser,
        "images",
        help="An npz file, arr_0 uint8 NHWC, arr_1 labels, other conditions by name; or a folder "
        "of samples",
    )
    cli.add_flag(parser, "out", help="The npz file of the latents")
    cli.add_flag(parser, "steps", int | str, help="Such as 250 or ddim25; default: the run's")
    cli.add_flag(
        parser,
        "batch_size",
        Annotated[int, Range(1, 2**31 - 1)],
        128,
        "How many at once, over all devices",
    )
    cli.add_imports(parser)
    cli.add_distributed(parser)
    cli.run(_encode, parser)


def _encode(args):
    model = cli.require("model", args.model, "the folder of a run")
    images = cli.require("images", args.images, "an npz file, or a folder of samples")
    out = cli.require("out", args.out, "a file such as latents.npz")
    cli.start_jax(args.distributed, args.compilation_cache)
    from jaxdiff.sampling import latents

    latents.run(model, images, out, steps=args.steps, batch_size=args.batch_size)


if __name__ == "__main__":
    main()
