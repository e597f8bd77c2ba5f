r"""What every guidance method does to digits: one table, one figure.

    python -m jaxdiff.evaluation.guidance --model runs/digits --early runs/digits@250 \
        --small runs/digits_small@150 --classifier runs/digits_classifier --out samples/guidance

Samples one row for each method with the same seed and sampler, scores them as
`jaxdiff.evaluation.digits` does, prints a table, and draws it to OUT/guidance.png beside one image
of each class and method. Rows that are there already are not sampled again. Images per second are
of a second call, compiled already, over those of no guidance just before it.
"""

import csv
import io
import json
import time

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.config import SAMPLERS
from jaxdiff.errors import UserError
from jaxdiff.files import local_path, read_json

SETTINGS = ("model", "early", "small", "classifier", "num_samples", "sampler", "steps")
COLUMNS = ("method", "agreement", "neighbour", "diversity", "evaluations", "relative_speed")


def rows(early, small, classifier):
    """{method: what it sets of a Request}."""
    return {
        "no guidance": {},
        "CFG, w 2": {"cfg": 2.0},
        "CFG, w 3, in (.19, 1.61]": {"cfg": 3.0, "interval": (".19,1.61",)},
        "CFG, w 2, linear": {"cfg": 2.0, "schedule": ("linear",)},
        "dynamic CFG, w 2, .6 to .9": {"cfg": 2.0, "schedule": ("dynamic,.6,.9",)},
        "CADS .4 to .9, 1; CFG, w 2": {"cfg": 2.0, "cads": ".4,.9,1"},
        "APG 0, -.5, 2; CFG, w 3": {"cfg": 3.0, "apg": "0,-.5,2"},
        "autoguidance, early, w 2.5": {"guide": (early,), "weight": (2.5,)},
        "autoguidance, small and early, w 2": {"guide": (small,), "weight": (2.0,)},
        "autoguidance, small and early, w 2; CADS": {
            "guide": (small,),
            "weight": (2.0,),
            "cads": ".4,.9,1",
        },
        "classifier, scale 1": {"classifier": classifier, "classifier_scale": 1.0},
    }


def measure(model, methods, out, num_samples, sampler, steps):
    """A row of COLUMNS for each method; writes its samples under `out`."""
    from jaxdiff.evaluation.digits import read_samples, score

    from jaxdiff.sampling import run_sampling

    common = {"model": model, "num_samples": num_samples, "batch_size": 250}
    common |= {"sampler": sampler, "steps": steps}
    table = []
    for number, (name, fields) in enumerate(methods.items()):
        folder = out / f"{number:02d}"
        request = run_sampling.Request(out=str(folder), **common, **fields)
        run_sampling.run(request)
        speed = folder / "relative_speed.json"
        if not speed.exists():
            value = _relative_speed(request, run_sampling.Request(out="", **common))
            results.replace(speed, lambda file, value=value: file.write(json.dumps(value).encode()))
        result = score(*read_samples(folder))
        manifest = read_json(folder / run_sampling.MANIFEST, ("network_evaluations_per_sample",))
        spent = manifest["network_evaluations_per_sample"]
        counts = " + ".join(f"{n} {k if k == 'model' else _short(k)}" for k, n in spent.items())
        scores = (result.total_agreement, result.neighbour, np.nanmean(result.diversity))
        table.append((name, *scores, counts, _number_in(speed)))
    return table


def _number_in(path):
    try:
        return float(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} holds no number: delete it to measure again.") from None


def _short(reference):
    return "classifier" if reference == "classifier" else "guide"


def _relative_speed(request, plain):
    """Images a second of a request over those of another; medians of three, in turn."""
    from jaxdiff.sampling import run_sampling

    jobs = [run_sampling.prepare(r) for r in (request, plain)]
    params = [j.params() for j in jobs]
    numbers = np.arange(request.batch_size)
    times = [[], []]
    for _ in range(4):
        for j, p, t in zip(jobs, params, times, strict=True):
            start = time.perf_counter()
            j.samples(p, 0, numbers, quiet=True)
            t.append(time.perf_counter() - start)
    guided, unguided = (np.median(t[1:]) for t in times)  # the first call compiles
    return float(unguided / guided)


def draw(table, out, path):
    """Diversity against agreement for each method, and images of all classes by each."""
    from jaxdiff.evaluation.digits import read_samples
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for number, (_, agreement, _, diversity, *_) in enumerate(table):
        left.plot(agreement, diversity, "o", color=f"C{number % 10}")
        left.annotate(str(number), (agreement, diversity), (4, 4), textcoords="offset points")
    left.set(xlabel="label agreement", ylabel="diversity within a class (data: 1)")
    left.grid(alpha=0.3)
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    shown = [
        np.pad(read_samples(out / f"{n:02d}")[0][:10], border, constant_values=255)
        for n in range(len(table))
    ]
    right.imshow(np.concatenate([np.concatenate(list(row), 1) for row in shown])[..., 0], "gray")
    names = [f"{n}  {row[0]}" for n, row in enumerate(table)]
    right.set(yticks=10 * np.arange(len(table)) + 4.5, yticklabels=names, xticks=[])
    figure.savefig(path, dpi=120)


def main():
    """Prints the table, and writes it beside the figure."""
    values = flags.FLAGS
    methods = rows(
        cli.require("early", values.early, "an early step of the model's run"),
        cli.require("small", values.small, "an early step of a smaller network"),
        cli.require("classifier", values.classifier, "the folder of a classifier's run"),
    )
    model = cli.require("model", values.model, "the folder of a run, such as runs/digits")
    out = local_path(cli.require("out", values.out, "a folder such as samples/guidance"), "--out")
    cli.use_compilation_cache()
    settings = {name: getattr(values, name) for name in SETTINGS}
    with results.claimed_folder(out, settings, "guidance.json", ("guidance.csv", "guidance.png")):
        table = measure(model, methods, out, values.num_samples, values.sampler, values.steps)
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *table])
        results.replace(out / "guidance.csv", lambda file: file.write(text.getvalue().encode()))
        results.replace(out / "guidance.png", lambda file: draw(table, out, file))
    print(
        "| | method | label agreement | nearest neighbour | diversity | network evaluations | "
        "images/s, relative |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for number, (name, agreement, neighbour, diversity, spent, speed) in enumerate(table):
        print(
            f"| {number} | {name} | {agreement:.1%} | {neighbour:.3f} | {diversity:.1%} | {spent} "
            f"| {speed:.2f} |"
        )


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Run of the digits that is guided, with label dropout.")
    flags.DEFINE_string("early", None, "An early step of it, to be pushed away from.")
    flags.DEFINE_string("small", None, "An early step of a smaller network.")
    flags.DEFINE_string("classifier", None, "The noisy classifier's run.")
    flags.DEFINE_integer("num_samples", 1000, "How many for each method.", lower_bound=2)
    flags.DEFINE_enum("sampler", "heun", SAMPLERS, "Of every row.")
    flags.DEFINE_string("steps", "18", "Of every row.")
    flags.DEFINE_string("out", None, "Folder of samples, table and figure.")
    cli.run(main)
