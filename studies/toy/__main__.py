r"""Autoguidance's toy, reproduced and measured: Karras et al. 2024 (arXiv:2406.02507), appendix C.

    python -m studies.toy --models runs/toy --guides runs/toy_guide \
        --unconditionals runs/toy_unconditional --out samples/toy

Prints a table of methods, writes it to OUT/table.json, draws the paper's figure to OUT/toy.png, and
with --sweep the frontier of outliers against lost coverage, each method over its weights, to
OUT/frontier.png and .csv. Several runs of each, separated by commas and trained with other seeds,
give the spread: a cell is the mean over them, followed by each of them in the order given.

The table takes 6 minutes of CPU time for one training, a sweep of 8,192 points a point 20;
docs/guidance.md has both, and what they say.
"""

import dataclasses
from typing import Annotated

import numpy as np

from jaxdiff import cli, files, tables
from jaxdiff.config import APG, Range, Schedule
from jaxdiff.errors import UserError

# Of the table: field of a Score, heading, factor, format.
COLUMNS = (
    ("mean", "mean log density", 1, ".3f"),
    ("outliers", "outliers, %", 100, ".2f"),
    ("tv", "TV", 1, ".3f"),
    ("median", "median", 1, ".3f"),
    ("clipped_mean", "clipped mean", 1, ".3f"),
)
FIELDS = {"method": str, "weight": float, **{field: float for field, *_ in COLUMNS}}
OWN = ("toy.png", "table.json", "frontier.csv", "frontier.png")
WEIGHTS = (1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
LARGER = (1.5, 2.0, 3.0, 4.0, 6.0)


def rows():
    """{name: (Runs, count) -> points}."""
    from studies.toy.score import truth

    table = {
        "truth": lambda runs, n: truth(runs.seed, n),
        "Heun with the exact score": lambda runs, n: runs.exact(n),
        "no guidance": lambda runs, n: runs.points(n),
        "the guide alone": lambda runs, n: runs.guide_points(n),
    }
    for w in (2.0, 3.0, 4.0):
        table[f"autoguidance, w {w:g}"] = lambda runs, n, w=w: runs.points(n, guide=w)
    for step in (512, 1024):
        for w in (2.0, 3.0):
            name = f"autoguidance by the main network's own step {step}, w {w:g}"
            table[name] = lambda runs, n, step=step, w=w: runs.points(n, early=(step, w))
    for w in (2.0, 4.0):
        table[f"CFG, w {w:g}"] = lambda runs, n, w=w: runs.points(n, cfg=w)
    table["score times 1.4"] = lambda runs, n: runs.truncated(n, 1.4)
    return table


def sweeps():
    """{method: {weight, or factor of truncation: (Runs, count) -> points}}."""

    def weights(values=WEIGHTS, **fields):
        return {w: lambda runs, n, w=w: runs.points(n, guide=w, **fields) for w in values}

    def own(step, **fields):
        return {w: lambda runs, n, w=w: runs.points(n, early=(step, w), **fields) for w in LARGER}

    linear = Schedule("linear")
    return {
        "CFG": {w: lambda runs, n, w=w: runs.points(n, cfg=w) for w in (1.25, 1.5, 2.0, 3.0, 4.0)},
        "truncation": {
            f: lambda runs, n, f=f: runs.truncated(n, f) for f in (1.02, 1.05, 1.1, 1.15, 1.2, 1.4)
        },
        "autoguidance": weights(),
        "in (0, .1]": weights(LARGER, interval=(0, 0.1)),
        "in (0, .3]": weights(LARGER, interval=(0, 0.3)),
        "in (.05, 1]": weights(LARGER, interval=(0.05, 1)),
        "linear": weights(schedule=linear),
        "invlinear": weights(schedule=Schedule("invlinear")),
        "APG 0, 0, .05": weights(LARGER, combiner=APG(0, 0, 0.05)),
        "APG 1, 0, .02": weights(LARGER, combiner=APG(1, 0, 0.02)),
        "and CFG, w 1.2": weights(cfg=1.2),
        "own step 512": own(512),
        "own step 1024": own(1024),
        "own step 512, linear": own(512, schedule=linear),
        "own step 512, APG 1, 0, .02": own(512, combiner=APG(1, 0, 0.02)),
        "own step 512, in (0, .3]": own(512, interval=(0, 0.3)),
        "and own step 512, w 1.5": weights(LARGER[:-1], early=(512, 1.5)),
    }


def measure(methods, runs, count):
    """{method: [Score of each of the runs]}."""
    from studies.toy.score import score

    return {name: [score(points(r, count)) for r in runs] for name, points in methods.items()}


def mean(scores):
    """The Score of means."""
    fields = [field.name for field in dataclasses.fields(scores[0])]
    return type(scores[0])(**{f: float(np.mean([getattr(s, f) for s in scores])) for f in fields})


def table(scores):
    """(columns, rows) of `measure`, as studies.tables takes them."""
    columns = [("", ""), *((heading, form) for _, heading, _, form in COLUMNS)]
    cells = [
        [name, *([float(factor * getattr(s, f)) for s in each] for f, _, factor, _ in COLUMNS)]
        for name, each in scores.items()
    ]
    return columns, cells


def sweep(runs, count, out):
    """Measures all sweeps, draws them, and keeps a CSV row of each point."""
    from studies.toy.figures import frontier
    from studies.toy.score import Score

    path, curves = out / "frontier.csv", {}
    kept = {(row.pop("method"), row.pop("weight")): row for row in tables.read_rows(path, FIELDS)}
    for name, methods in sweeps().items():
        for weight, points in methods.items():
            if (name, weight) not in kept:
                values = dataclasses.asdict(mean(measure({name: points}, runs, count)[name]))
                kept[name, weight] = {f: values[f] for f, *_ in COLUMNS}
                tables.add_row(path, {"method": name, "weight": weight, **kept[name, weight]})
            score = Score(**kept[name, weight])
            curves.setdefault(name, []).append((weight, score))
            print(
                f"{name}, {weight:g}: outliers {score.outliers:.2%}, TV {score.tv:.3f}, clipped "
                f"mean {score.clipped_mean:.3f}",
                flush=True,
            )
    frontier(curves, out / "frontier.png", truncation="truncation")


def _runs(args):
    from studies.toy.runs import Runs

    names = [args.models, args.guides, args.unconditionals]
    if not names[0] or len({len(n) for n in names}) > 1:
        raise UserError(
            f"--models, --guides and --unconditionals hold {', '.join(str(len(n)) for n in names)} "
            "runs: give as many of each, at least one."
        )
    runs = [Runs(*each, seed) for seed, each in enumerate(zip(*names, strict=True))]
    for each in runs:
        for reference in (each.model, each.guide, each.unconditional):
            each.load(reference)
    return runs


def _job(args):
    from jaxdiff.checkpoints.run import digest, resolve
    from jaxdiff.claims import claimed_folder
    from studies.tables import markdown, save
    from studies.toy.figures import overview

    out = files.parse_path(cli.require("out", args.out, "a folder such as samples/toy"), "--out")
    cli.start_jax(False)
    runs = _runs(args)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    references = [*args.models, *args.guides, *args.unconditionals]
    settings["networks"] = [digest(resolve(reference)) for reference in references]
    with claimed_folder(out, settings, "toy.json", OWN):
        found = table(measure(rows(), runs, args.num_samples))
        save(out / "table.json", *found)
        print(markdown(*found))
        overview(runs[0], out / "toy.png")
        if args.sweep:
            sweep(runs, args.sweep, out)


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "models", tuple[str, ...], (), "Runs of configs/toy.py")
    cli.add_flag(parser, "guides", tuple[str, ...], (), "Runs of configs/toy_guide.py")
    cli.add_flag(parser, "unconditionals", tuple[str, ...], (), "Of configs/toy_unconditional.py")
    count = Annotated[int, Range(1, 10**9)]
    cli.add_flag(parser, "num_samples", count, 40_000, "Points of each row")
    sweep_count = Annotated[int, Range(0, 10**9)]
    cli.add_flag(parser, "sweep", sweep_count, 0, "Points of each weight; 0: no frontier")
    cli.add_flag(parser, "out", help="Folder of the figures.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
