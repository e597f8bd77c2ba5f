r"""What every guidance method does to digits: one table, one figure.

    python -m studies.guidance_table --model runs/digits --early runs/digits@250 \
        --small runs/digits_small@150 --classifier runs/digits_classifier --out samples/guidance

Samples one row for each method with the same seed and sampler, scores them as
`studies.digits.evaluation` does, prints a table, writes it to OUT/table.json, and draws it to
OUT/guidance.png beside one image of each class and method. Rows that OUT/guidance.csv holds are not
sampled again. Images per second are of calls that are compiled already, over those of no guidance
in turn with them. About 8 minutes on two CPU cores. docs/guidance.md has the table and what was
found.
"""

import time
from typing import Annotated

import numpy as np

from jaxdiff import arrays, cli, files, tables
from jaxdiff.config import (
    APG,
    CADS,
    CFG,
    Autoguidance,
    ClassifierGuidance,
    Heun,
    Range,
    Schedule,
)

COLUMNS = {
    "method": str,
    "agreement": float,
    "neighbour": float,
    "diversity": float,
    "evaluations": str,
    "relative_speed": float,
}
HEADINGS = (
    ("", "d"),
    ("method", ""),
    ("label agreement", ".1%"),
    ("nearest neighbour", ".3f"),
    ("diversity", ".1%"),
    ("network evaluations", ""),
    ("images/s, relative", ".2f"),
)
BATCH = 250
OWN = ("guidance.csv", "guidance.png", "*.npz", "table.json")


def methods(early, small, classifier):
    """{method: arguments of `TrainedModel.sample`}."""
    both = [Autoguidance(small, 2)]
    cads = CADS(0.4, 0.9, 1)
    return {
        "no guidance": {},
        "CFG, w 2": {"guidance": [CFG(2)]},
        "CFG, w 3, in (.19, 1.61]": {"guidance": [CFG(3, interval=(0.19, 1.61))]},
        "CFG, w 2, linear": {"guidance": [CFG(2, schedule=Schedule("linear"))]},
        "dynamic CFG, w 2, .6 to .9": {
            "guidance": [CFG(2, schedule=Schedule("dynamic", (0.6, 0.9)))]
        },
        "CADS .4 to .9, 1; CFG, w 2": {"guidance": [CFG(2)], "cads": cads},
        "APG 0, -.5, 2; CFG, w 3": {"guidance": [CFG(3)], "combiner": APG(0, -0.5, 2)},
        "autoguidance, early, w 2.5": {"guidance": [Autoguidance(early, 2.5)]},
        "autoguidance, small and early, w 2": {"guidance": both},
        "autoguidance, small and early, w 2; CADS": {"guidance": both, "cads": cads},
        "classifier, scale 1": {"guidance": [ClassifierGuidance(classifier, 1)]},
    }


def measure(model, rows, out, num_samples, sampler):
    """Rows of COLUMNS, one for each method; keeps them, and their first samples, in `out`."""
    from studies.digits.evaluation import score

    path = out / "guidance.csv"
    kept = {row["method"]: row for row in tables.read_rows(path, COLUMNS)}
    for name, arguments in rows.items():
        if name in kept:
            continue
        arguments = {"sampler": sampler, "batch_size": BATCH, **arguments}
        samples = model.sample(num_samples, **arguments)
        result = score(samples.images, samples.cond["label"])
        evaluations = samples.settings["network_evaluations_per_sample"]
        arrays.save_npz(out / f"{len(kept):02d}.npz", {"images": samples.images[:10]})
        values = (
            name,
            result.total_agreement,
            result.neighbour,
            np.nanmean(result.diversity),
            " + ".join(f"{n} {_short(k)}" for k, n in evaluations.items()),
            _relative_speed(model, arguments),
        )
        kept[name] = dict(zip(COLUMNS, values, strict=True))
        tables.add_row(path, kept[name])
    return [list(kept[name].values()) for name in rows]


def _short(network):
    return network if network in ("model", "classifier") else "guide"


def _relative_speed(model, guided):
    """Images a second with these arguments over those without guidance; medians of three."""
    plain = {name: guided[name] for name in ("sampler", "batch_size")}
    times = [[], []]
    for _ in range(4):
        for arguments, spent in zip((guided, plain), times, strict=True):
            start = time.perf_counter()
            model.sample(BATCH, **arguments)
            spent.append(time.perf_counter() - start)
    slow, fast = (np.median(spent[1:]) for spent in times)  # the first call compiles
    return float(fast / slow)


def draw(rows, out):
    """Diversity against agreement for each method, and images of all classes by each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for number, (_, agreement, _, diversity, *_) in enumerate(rows):
        left.plot(agreement, diversity, "o", color=f"C{number % 10}")
        left.annotate(str(number), (agreement, diversity), (4, 4), textcoords="offset points")
    left.set(xlabel="label agreement", ylabel="diversity within a class (data: 1)")
    left.grid(alpha=0.3)
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    shown = [
        np.pad(arrays.load_npz(out / f"{n:02d}.npz")["images"], border, constant_values=255)
        for n in range(len(rows))
    ]
    right.imshow(np.concatenate([np.concatenate(list(row), 1) for row in shown])[..., 0], "gray")
    names = [f"{n}  {row[0]}" for n, row in enumerate(rows)]
    right.set(yticks=10 * np.arange(len(rows)) + 4.5, yticklabels=names, xticks=[])
    with files.replacing(out / "guidance.png") as file:
        figure.savefig(file, dpi=120)


def _job(args):
    import jaxdiff
    from jaxdiff.checkpoints.run import digest, resolve
    from jaxdiff.claims import claimed_folder
    from studies.tables import markdown, save

    reference = cli.require("model", args.model, "the folder of a run, such as runs/digits")
    rows = methods(
        cli.require("early", args.early, "an early step of the model's run"),
        cli.require("small", args.small, "an early step of a smaller network"),
        cli.require("classifier", args.classifier, "the folder of a classifier's run"),
    )
    text = cli.require("out", args.out, "a folder such as samples/guidance")
    out = files.parse_path(text, "--out")
    cli.start_jax(False)
    model = jaxdiff.load(reference)
    names = ("model", "early", "small", "classifier", "num_samples", "steps")
    settings = {name: getattr(args, name) for name in names}
    settings["networks"] = [digest(resolve(settings[name])) for name in names[:4]]
    with claimed_folder(
        out, settings, "guidance.json", ("guidance.csv", "guidance.png", "*.npz", "table.json")
    ):
        found = measure(model, rows, out, args.num_samples, Heun(steps=args.steps))
        draw(found, out)
        numbered = [[number, *row] for number, row in enumerate(found)]
        save(out / "table.json", HEADINGS, numbered)
    print(markdown(HEADINGS, numbered))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="Run of the digits, with condition dropout, to guide.")
    cli.add_flag(parser, "early", help="An early step of it, a guide.")
    cli.add_flag(parser, "small", help="An early step of a smaller network, a guide.")
    cli.add_flag(parser, "classifier", help="The run of the classifier of noisy images.")
    count = Annotated[int, Range(10, 10**9)]
    cli.add_flag(parser, "num_samples", count, 1000, "Number of samples of each row")
    cli.add_flag(parser, "steps", Annotated[int, Range(1, 10**5)], 18, "Heun steps of each row")
    cli.add_flag(parser, "out", help="Folder of samples, table and figure.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
