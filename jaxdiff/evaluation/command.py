r"""Measures samples against real images: FID and the other metrics of the papers.

    python evaluate.py --samples samples/x --reference VIRTUAL_imagenet64_labeled.npz \
        --metrics fid,sfid,is,precision,recall --weights weights/
    python evaluate.py --samples samples/x --reference data/fashion --features efficientnet-lite0

Every value is printed, and written to metrics.json and metrics.csv beside the samples, with the
numbers of images of both sides, the network, its weights' hash, and the reference's. Features are
computed once, and kept beside the images. docs/evaluation.md defines the metrics and says where
weights are found.

    python evaluate.py --reference data/fashion --make_reference fashion.npz --weights weights/

writes a reference file in the layout of OpenAI's evaluator instead.
"""

from typing import Annotated, Literal

from jaxdiff import cli
from jaxdiff.config import Range
from jaxdiff.config.training import Seed
from jaxdiff.errors import UserError
from jaxdiff.evaluation.table import METRICS, RANGES, checked

Count = Annotated[int, Range(1, 2**31 - 1)]
Size = Annotated[int, Range(1, 2**14)]


def main():
    """The command line of evaluation."""
    cli.run(_evaluate, parser())


def parser():
    """The flags."""
    made = cli.Parser(__doc__)

    def add(name, hint=str, default=None, help="", repeated=False):
        cli.add_flag(made, name, hint, default, help, repeated)

    add(
        "samples",
        help="Folder or npz file of samples, or folder of pictures; repeatable: then the mean, "
        "lowest and highest value over them",
        repeated=True,
    )
    add(
        "reference",
        help="The same of real images, a prepared dataset, or a file of statistics (npz, pkl)",
    )
    add("split", help="Of a reference that is a dataset; default: train")
    add("image_size", Size, help="Height and width that images of another size are brought to")
    add(
        "fit",
        Literal["crop", "pad"],
        "crop",
        "How: scaled and cropped, or framed with black, as data.fit of the model",
    )
    add(
        "features",
        default="inception",
        help="NAME[:FRONT_END] of the network: inception[:pytorch-fid or :clean-fid], "
        "dinov2-vitl14, sscd, efficientnet-lite0, or a classifier's run",
    )
    add("weights", help="Folder of the networks' weights, or the file; default: $JAXDIFF_WEIGHTS")
    add(
        "metrics",
        tuple[str, ...],
        help=f"Of {', '.join(METRICS)}; default: those that the features and the images allow",
    )
    add("num_samples", Count, help="Size of random subsets of the samples that are measured")
    add(
        "seeds",
        tuple[Seed, ...],
        help="Of the random subsets, such as 0,1,2: the mean, lowest and highest value over them",
    )
    add(
        "reference_images",
        RANGES["reference_images"],
        10_000,
        "Most real images for neighbours and KID, spread evenly",
    )
    add("kid_subsets", RANGES["kid_subsets"], 100, "Number of KID's subsets")
    add("kid_size", RANGES["kid_size"], 1000, "Size of each of them")
    add(
        "nearest",
        Count,
        help="Draw the N samples nearest to real images beside those (nearest.png)",
    )
    add(
        "make_reference", help="Write a reference file OUT.npz of --reference or --samples, and end"
    )
    add("out", help="Folder of metrics.json and metrics.csv; default: that of the first samples")
    add(
        "batch_size",
        Count,
        help="How many images at once, over all devices; default: as suits them",
    )
    cli.add_distributed(made)
    cli.add_imports(made)
    return made


def _evaluate(args):
    metrics = None if args.metrics is None else checked(args.metrics)
    _check(args)
    cli.start_jax(args.distributed, args.compilation_cache)
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff.evaluation import run_evaluation
    from jaxdiff.evaluation.values import Options

    request = run_evaluation.Request(
        samples=tuple(args.samples),
        reference=args.reference,
        split=args.split,
        image_size=args.image_size,
        fit=args.fit,
        features=args.features,
        weights=args.weights,
        metrics=metrics,
        num_samples=args.num_samples,
        seeds=args.seeds or (0,),
        options=Options(args.reference_images, args.kid_subsets, args.kid_size),
        nearest=args.nearest,
        out=args.out,
        batch_size=args.batch_size,
    )
    if args.make_reference is not None:
        run_evaluation.make_reference(request, args.make_reference)
    else:
        run_evaluation.run(request)


def _check(args):
    """Raises UserError for flags that do not belong together."""
    if args.make_reference is not None:
        given = [*args.samples, *filter(None, [args.reference])]
        if len(given) != 1:
            raise UserError(
                f"--make_reference {args.make_reference} needs one set of images and {len(given)} "
                "are given: give one --reference or --samples."
            )
        return
    cli.require("samples", args.samples, "a folder of samples such as samples/NAME")
    if args.seeds is not None and args.num_samples is None:
        raise UserError("--seeds needs --num_samples, the size of the random subsets: add it.")
    if args.seeds is not None and len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {','.join(map(str, args.seeds))} repeats one: give each once.")
    if args.nearest is not None and args.reference is None:
        raise UserError("--nearest needs --reference, whose images are searched: add it.")


if __name__ == "__main__":
    main()
