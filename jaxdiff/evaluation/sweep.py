r"""Searches a run's history for the guide that helps most.

    python -m jaxdiff.evaluation.sweep --model runs/a --guide runs/a_guide \
        --weights 1,1.5,2,2.5,3 --guide_steps 250,500,1000 --model_ema 0.05,0.1 \
        --guide_ema 0.05,0.1,0.15 --num_samples 2000 --metric fd \
        --features runs/a_classifier --out samples/sweep

Without --guide the model guides itself under the null condition (CFG). Every point has the same
seed. A row of OUT/sweep.csv is written as each point ends; the same command continues after the
last one, and one with other grids adds to them. At the end: OUT/sweep.png, and the command line of
the table's best point.

The metric is the Frechet distance (metrics/frechet.py) between features of the samples and those of
all real training images; inf if the samples are not all finite. If the data of these runs are
prepared by a function (data.prepare), give --import MODULE.
"""

from typing import Annotated, Literal

from jaxdiff import cli
from jaxdiff.config import Range
from jaxdiff.config.guidance import Weight
from jaxdiff.config.samplers import Steps
from jaxdiff.config.training import Count, Seed
from jaxdiff.errors import UserError
from jaxdiff.sampling.command import SAMPLERS, sampler_of

Length = Annotated[float, Range(0, 1)]


def main():
    """The command line."""
    parser = cli.Parser(__doc__)

    def add(name, hint=str, default=None, help="", repeated=False):
        cli.add_flag(parser, name, hint, default, help, repeated)

    add("model", help="The run to sample: FOLDER[@STEP][:ema=LENGTH,dropout=RATE]")
    add("guide", help="Run of the guide; default: CFG by the model itself")
    add("weights", tuple[Weight, ...], (), "Weights; 1 disables guidance")
    add("guide_steps", tuple[Count, ...], (), "Steps of the guide's run; default: its latest")
    add("model_ema", tuple[Length, ...], (), "Lengths of the model's average; default: its first")
    add("guide_ema", tuple[Length, ...], (), "Lengths of the guide's average; default: its first")
    add(
        "interval",
        tuple[float, ...],
        help="LOW,HIGH in sigma/alpha: guide at those levels only; repeatable",
        repeated=True,
    )
    add("num_samples", Annotated[int, Range(2, 2**31 - 1)], 2000, "Samples of a point")
    add("batch_size", Annotated[int, Range(1, 2**31 - 1)], 250, "How many at once, on all devices")
    add("seed", Seed, 0, "Seed, the same for all points")
    add("sampler", Literal[*SAMPLERS], help="Default: the run's")
    add("steps", Steps | str, help="Default: the run's")
    add("metric", Literal["fd"], "fd", "fd: Frechet distance of the features")
    add("features", help="A classifier's run, whose last hidden layer makes features of images")
    add("out", default="samples/sweep", help="Folder of the table and the picture")
    add("distributed", bool, False, "Many hosts run this program")
    cli.add_imports(parser)
    cli.run(_sweep, parser)


def _sweep(args):
    model = cli.require("model", args.model, "the folder of a run")
    features = cli.require("features", args.features, "a classifier's run")
    cli.start_jax(args.distributed)
    from jaxdiff import files
    from jaxdiff.evaluation import run_sweep
    from jaxdiff.evaluation.search import Search, grid
    from jaxdiff.parallel import processes
    from jaxdiff.sampling.trained_model import load

    is_other = args.sampler is not None or args.steps is not None
    search = Search(
        model=model,
        guide=args.guide,
        num_samples=args.num_samples,
        batch_size=args.batch_size,
        seed=args.seed,
        sampler=sampler_of(args, load(model).config) if is_other else None,
    )
    out, lists = files.parse_path(args.out, "--out"), (args.model_ema, args.guide_ema)
    points = grid(search, args.weights, args.guide_steps, *lists, args.interval)
    search = run_sweep.pinned(search, points, out)
    measured = run_sweep.run(search, points, features, out, args.metric)
    best = min(measured, key=measured.get)
    if measured[best] == float("inf"):
        raise UserError("No point has samples that are all finite: choose smaller --weights.")
    if processes.is_first():
        print(f"Best of {len(measured)} points, {args.metric} {measured[best]:.4g}:")
        print(search.command(best, f"{out}/best"))


if __name__ == "__main__":
    main()
