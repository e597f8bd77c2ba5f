r"""Autoguidance's toy, reproduced and measured: Karras et al. 2024 (arXiv:2406.02507), appendix C.

    python -m jaxdiff.evaluation.toy --models runs/toy --guides runs/toy_guide \
        --unconditionals runs/toy_unconditional --out samples/toy

Prints a table of methods, draws the paper's figure to OUT/toy.png, and with --sweep the frontier of
outliers against lost coverage, each method over its strengths, to OUT/frontier.png and .csv.
Several runs of each, separated by commas and trained with other seeds, give the spread: a cell is
the mean over them, followed by each of them in the order given.
"""

import csv
import dataclasses

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.errors import UserError
from jaxdiff.files import local_path

# Of the table: field of a Score, heading, factor, format.
COLUMNS = (
    ("mean", "mean log density", 1, ".3f"),
    ("outliers", "outliers, %", 100, ".2f"),
    ("tv", "TV", 1, ".3f"),
    ("median", "median", 1, ".3f"),
    ("clipped_mean", "clipped mean", 1, ".3f"),
)
SETTINGS = ("models", "guides", "unconditionals", "num_samples", "sweep")  # flags
FIGURES = ("toy.png", "frontier.csv", "frontier.png")
WEIGHTS = (1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


def rows():
    """{name: (Runs, count) -> points}."""
    from jaxdiff.evaluation.toy_score import truth

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
    """{method: {strength: (Runs, count) -> points}}."""

    def weights(values=WEIGHTS, **fields):
        return {w: lambda runs, n, w=w: runs.points(n, guide=w, **fields) for w in values}

    def own(step, **fields):
        return {w: lambda runs, n, w=w: runs.points(n, early=(step, w), **fields) for w in stronger}

    stronger = (1.5, 2.0, 3.0, 4.0, 6.0)
    return {
        "CFG": {w: lambda runs, n, w=w: runs.points(n, cfg=w) for w in (1.25, 1.5, 2.0, 3.0, 4.0)},
        "truncation": {
            f: lambda runs, n, f=f: runs.truncated(n, f) for f in (1.02, 1.05, 1.1, 1.15, 1.2, 1.4)
        },
        "autoguidance": weights(),
        "in (0, .1]": weights(stronger, interval=("0,.1",)),
        "in (0, .3]": weights(stronger, interval=("0,.3",)),
        "in (.05, 1]": weights(stronger, interval=(".05,1",)),
        "linear": weights(schedule=("linear",)),
        "invlinear": weights(schedule=("invlinear",)),
        "APG 0, 0, .05": weights(stronger, apg="0,0,.05"),
        "APG 1, 0, .02": weights(stronger, apg="1,0,.02"),
        "and CFG, w 1.2": weights(cfg=1.2),
        "own step 512": own(512),
        "own step 1024": own(1024),
        "own step 512, linear": own(512, schedule=("linear",)),
        "own step 512, APG 1, 0, .02": own(512, apg="1,0,.02"),
        "own step 512, in (0, .3]": own(512, interval=("0,.3",)),
        "and own step 512, w 1.5": weights(stronger[:-1], early=(512, 1.5)),
    }


def measure(methods, runs, count):
    """{method: [Score of each of the runs]}."""
    from jaxdiff.evaluation.toy_score import score

    return {name: [score(points(r, count)) for r in runs] for name, points in methods.items()}


def mean(scores):
    """The Score of means."""
    fields = [field.name for field in dataclasses.fields(scores[0])]
    return type(scores[0])(**{f: float(np.mean([getattr(s, f) for s in scores])) for f in fields})


def _cell(values, factor, form):
    values = np.array(values) * factor
    text = format(values.mean(), form)
    if len(values) == 1:
        return text
    return f"{text} ({', '.join(format(value, form) for value in values)})"


def print_table(results):
    """Markdown."""
    print(f"| | {' | '.join(heading for _, heading, *_ in COLUMNS)} |")
    print("| --- " * (1 + len(COLUMNS)) + "|")
    for name, scores in results.items():
        cells = [
            _cell([getattr(s, f) for s in scores], factor, form) for f, _, factor, form in COLUMNS
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def sweep(runs, count, out):
    """Measures all sweeps; a CSV row as each point is done, a picture at the end."""
    from jaxdiff.evaluation.toy_figures import frontier

    curves = {}
    with open(out / "frontier.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "strength", *(field for field, *_ in COLUMNS)])
        for name, methods in sweeps().items():
            results = measure(methods, runs, count)
            curves[name] = [(strength, mean(scores)) for strength, scores in results.items()]
            for strength, s in curves[name]:
                writer.writerow([name, strength, *(getattr(s, field) for field, *_ in COLUMNS)])
                print(
                    f"{name}, {strength:g}: outliers {s.outliers:.2%}, TV {s.tv:.3f}, clipped mean "
                    f"{s.clipped_mean:.3f}",
                    flush=True,
                )
            file.flush()
    frontier(curves, out / "frontier.png", truncation="truncation")


def _runs(values):
    from jaxdiff.evaluation.toy_runs import Runs

    names = [values.models, values.guides, values.unconditionals]
    if not names[0] or len({len(n) for n in names}) > 1:
        raise UserError(
            f"--models, --guides and --unconditionals hold {', '.join(str(len(n)) for n in names)} "
            "runs: give as many of each, at least one."
        )
    return [Runs(*each, seed) for seed, each in enumerate(zip(*names, strict=True))]


def main():
    """Prints the tables, and draws the figures."""
    values = flags.FLAGS
    out = local_path(cli.require("out", values.out, "a folder such as samples/toy"), "--out")
    cli.use_compilation_cache()
    runs = _runs(values)
    from jaxdiff.evaluation.toy_figures import overview

    settings = {name: values[name].value for name in SETTINGS}
    with results.claimed_folder(out, settings, "toy.json", FIGURES):
        print_table(measure(rows(), runs, values.num_samples))
        overview(runs[0], out / "toy.png")
        if values.sweep:
            sweep(runs, values.sweep, out)


if __name__ == "__main__":
    flags.DEFINE_list("models", [], "Runs of configs/toy.py.")
    flags.DEFINE_list("guides", [], "Runs of configs/toy_guide.py.")
    flags.DEFINE_list("unconditionals", [], "Runs of configs/toy_unconditional.py.")
    flags.DEFINE_integer("num_samples", 40_000, "Points of each row.", lower_bound=1)
    flags.DEFINE_integer("sweep", 0, "Points of every method at every strength; 0: no frontier.")
    flags.DEFINE_string("out", None, "Folder of the figures.")
    cli.run(main)
