r"""Searches a run's history for the guide that helps most.

    python -m jaxdiff.evaluation.sweep --model runs/a --guide runs/a_guide \
        --weights 1,1.5,2,2.5,3 --guide_steps 250,500,1000 --model_ema 0.05,0.1 \
        --guide_ema 0.05,0.1,0.15 --num_samples 2000 --metrics fd,precision,recall \
        --features efficientnet-lite0 --out samples/sweep

Without --guide the model guides itself under the null condition (CFG). Every point has the same
seed. A row of OUT/sweep.csv is written as each point ends; the same command continues after the
last one, and one with other grids adds to them. At the end: OUT/sweep.png, and the command line of
the table's best point by each metric. Of several metrics OUT/pareto.csv has the Pareto front: the
points that no other is better than in all of them.

Samples are compared with the real training images, by the features of a network with public weights
(--feature_weights, docs/evaluation.md) or of a classifier's run. If samples of a point are not all
finite its values are the worst there are, inf or -inf. If the data of these runs are prepared by a
function (data.prepare), give --import MODULE.
"""

from typing import Annotated, Literal

from jaxdiff import cli
from jaxdiff.config import METRICS, Range
from jaxdiff.config.guidance import Weight
from jaxdiff.config.samplers import Steps
from jaxdiff.config.training import Count, Seed
from jaxdiff.errors import UserError
from jaxdiff.evaluation.ranking import best, pareto_front
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
    add("metrics", tuple[Literal[*METRICS], ...], ("fd",), "What is measured, such as fd,recall")
    add("features", help="Network whose features are compared, NAME[:FRONT_END]; or a run")
    add("feature_weights", help="Folder of its weights; default: $JAXDIFF_WEIGHTS")
    add("out", default="samples/sweep", help="Folder of the table and the picture")
    cli.add_distributed(parser)
    cli.add_imports(parser)
    cli.run(_sweep, parser)


def _sweep(args):
    model = cli.require("model", args.model, "the folder of a run")
    known = "efficientnet-lite0, inception, or a classifier's run"
    features = cli.require("features", args.features, known)
    metrics = tuple(dict.fromkeys(cli.require("metrics", args.metrics, "names such as fd,recall")))
    cli.start_jax(args.distributed, args.compilation_cache)
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
    measured = run_sweep.run(search, points, features, out, metrics, args.feature_weights)
    points = {metric: best(measured, metric) for metric in metrics}
    if not any(points.values()):
        raise UserError("No point has samples that are all finite: choose smaller --weights.")
    if processes.is_first():
        _print(search, measured, points, out)


def _print(search, measured, points, out):
    """Prints the Pareto front of several metrics, and the command line of each one's best point."""
    metrics = list(points)
    if len(metrics) > 1:
        front = pareto_front(measured, metrics)
        print(f"Pareto front of {' and '.join(metrics)}, {len(front)} of {len(measured)} points:")
        for point in front:
            values = ", ".join(f"{metric} {measured[point][metric]:.4g}" for metric in metrics)
            print(f"  {values}: {point}")
    for metric, point in points.items():
        print(f"Best of {len(measured)} points, {metric} {measured[point][metric]:.4g}:")
        print(search.command(point, f"{out}/best"))


if __name__ == "__main__":
    main()
