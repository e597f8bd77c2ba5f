r"""Samples what sweeps found again, with seeds that they did not use: one table, one picture.

    python -m studies.confirm --sweeps samples/cfg,samples/both \
        --features runs/digits_classifier --seeds 1,2,3 --out samples/confirmed

The lowest of many measured distances is biased, as the search also chose its noise. So the best
point of each sweep's folder is sampled again: unguided (once for each rate of dropout of the
model), guided, and the best of those that have one length of average for both networks, where that
has two, or the other way round.

Each is scored as studies/scores.py says. Of every number the table, which is printed and
written to OUT/table.json, has the mean over the seeds, and the lowest and highest. Rows that
OUT/samples.csv holds are not sampled again. A row and seed of 500 digits takes 20 seconds of one
CPU core. docs/autoguidance.md has the tables of the digits and of Fashion-MNIST.
"""

import dataclasses
import json
import math
from typing import Annotated, Any

import numpy as np

from jaxdiff import arrays, cli, files, tables
from jaxdiff.config import Range
from jaxdiff.config.training import Seed
from jaxdiff.errors import UserError

METRICS = ("fd", "agreement", "diversity")
REAL = "real images"
SETTINGS = "confirm.json"
WRITTEN = ("samples.csv", "table.json", "samples.png", "*.npz")
HEADINGS = (
    ("", ""),
    ("Frechet distance", ".3g"),
    ("label agreement", ".1%"),
    ("diversity", ".1%"),
    ("settings", ""),
)
COLUMNS = {"method": str, "seed": int, **dict.fromkeys(METRICS, float)}
# What sweeps must share, so that their distances compare.
COMMON = ("run", "step", "sampling", "num_samples", "features")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is sampled.

    Attributes:
      name: of the method.
      search: that found it, a jaxdiff.evaluation.search.Search.
      point: of the search.
    """

    name: str
    search: Any
    point: Any


def rows(folders):
    """The rows that sweeps' folders give: unguided ones, then each folder's.

    Raises:
      UserError: for a folder that holds no search, searches whose distances do not compare, and
        rows of the same name.
    """
    found, plain, common = [], {}, {name: set() for name in COMMON}
    for folder in folders:
        search, shared, measured = _read(folder)
        for name, value in shared.items():
            common[name].add(value)
        dropout = search.networks(next(iter(measured)))[0].dropout if measured else 0.0
        unguided = {(search, point): v for point, v in measured.items() if point.weight == 1}
        plain.setdefault(dropout, {}).update(unguided)
        guided = {point: v for point, v in measured.items() if point.weight != 1}
        if not guided:
            continue
        best = min(guided, key=guided.get)
        found.append(Row(folder.name, search, best))
        if search.guide is not None:
            is_one = best.guide_ema == best.model_ema
            kind = "separate EMAs" if is_one else "one EMA"
            others = [p for p in guided if (p.guide_ema == p.model_ema) != is_one]
            if others:
                found.append(Row(f"{folder.name}, {kind}", search, min(others, key=guided.get)))
    found = [
        Row(f"unguided, dropout {dropout:g}" if dropout else "unguided", *min(each, key=each.get))
        for dropout, each in sorted(plain.items())
        if each
    ] + found
    names = [row.name for row in found]
    if not found:
        raise UserError(
            f"{', '.join(map(str, folders))} hold no measured points: continue the sweeps."
        )
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two rows would be called {repeated[0]}: rename a sweep's folder.")
    for name, values in common.items():
        if len(values) > 1:
            raise UserError(
                f"The sweeps have different values of {name}, {' and '.join(sorted(values))}: "
                "give sweeps of one model at one step, sampled and measured in the same way."
            )
    return found


def _read(folder):
    """(Search, {what sweeps must share: text}, {Point: value}) of a sweep's folder."""
    from jaxdiff.evaluation import run_sweep, search

    path = folder / run_sweep.SETTINGS
    settings = files.read_json(path, advice="give the --out of a sweep")
    try:
        found = search.of_settings(settings)
        table = run_sweep.Table(folder, tuple(settings["metrics"]))
        shared = {name: json.dumps(settings[name]) for name in COMMON[2:]}
    except (KeyError, TypeError):
        raise UserError(f"{folder} is not the folder of a sweep: give its --out.") from None
    if "fd" not in table.metrics:
        raise UserError(f"{folder} has no Frechet distances: give sweeps with fd in --metrics.")
    distances = {point: values["fd"] for point, values in table.read().items()}
    measured = {point: value for point, value in distances.items() if math.isfinite(value)}
    reference = found.networks(search.Point(weight=1))[0].reference
    shared |= {"run": str(reference.run.folder), "step": str(reference.step)}
    return found, shared, measured


def judge(config):
    """Of a RunConfig: ((uint8 images, labels) -> Score, the Score of held-out images).

    Raises:
      UserError: where there are no labels to agree with.
    """
    from jaxdiff.config import import_modules
    from jaxdiff.data.source import open_split
    from studies import scores
    from studies.digits import evaluation

    if config.label is None:
        raise UserError("The model was trained without labels, and rows are scored by them.")
    if config.data.prepare == "studies.digits.data:prepare":
        import_modules(["studies.digits.data"])  # which `training` calls as well
        return evaluation.score, evaluation.real().held_out
    splits = ("train", config.data.held_out)
    real = scores.real(*(open_split(config.data, s, (config.label,)) for s in splits))
    return lambda images, labels: real.score(scores.rows_of(images), labels), real.held_out


def measure(found, extractor, seeds, num_samples, out):
    """Samples and scores every row with every seed: {name: {metric: [value of each seed]}}.

    Samples of the first seed are in `out`, at `_shown`. The last row, REAL, is of real images:
    the distance of as many training images, the rest of those held out.
    """
    from jaxdiff.evaluation.comparison import Comparison, reference_of

    table, path = {}, out / "samples.csv"
    kept = {(row["method"], row["seed"]): row for row in tables.read_rows(path, COLUMNS)}
    model = found[0].search.networks(found[0].point)[0]
    config, folder = model.config, model.reference.run.folder
    score, held_out = judge(config)
    comparison = Comparison(extractor, reference_of(config, "train", folder), ("fd",))

    def distance(images):
        return float(comparison.values(images, {})[0].value)

    for row in found:
        search = dataclasses.replace(row.search, num_samples=num_samples)
        for seed in seeds:
            if (row.name, seed) in kept:
                continue
            samples = search.samples(row.point, seed)
            fd = distance(samples.images)
            values = (fd, *_values(score(samples.images, samples.cond["label"])))
            kept[row.name, seed] = {"method": row.name, "seed": seed}
            kept[row.name, seed] |= dict(zip(METRICS, values, strict=True))
            if seed == seeds[0]:
                arrays.save_npz(_shown(out, row), {"images": samples.images[:100]})
            tables.add_row(path, kept[row.name, seed])
            print(f"{row.name}, seed {seed}: fd {fd:.4g}", flush=True)
        table[row.name] = {m: [kept[row.name, s][m] for s in seeds] for m in METRICS}
    drawn = [distance(training(config, num_samples, seed)) for seed in seeds]
    table[REAL] = dict(zip(METRICS, (drawn, *([v] for v in _values(held_out))), strict=True))
    return table


def _values(score):
    return float(score.total_agreement), float(np.nanmean(score.diversity))


def training(config, count, seed):
    """`count` training images, as many of each class as there would be samples.

    No samples can be expected to be closer to all training images than these. The last images of
    a class with too few are repeated.
    """
    from jaxdiff.data.source import open_split
    from studies import scores

    batch = scores.some(open_split(config.data, "train", (config.label,)))
    every = batch["cond"][config.label.name]
    order = np.random.RandomState(seed).permutation(len(every))
    labels = every[order]
    classes = np.unique(labels)  # as samples are of those that have images
    wanted = classes[np.arange(count) % len(classes)]
    rows = [np.resize(order[labels == c], (wanted == c).sum()) for c in classes]
    return batch["x"][np.concatenate(rows)]


def _shown(out, row):
    """The file of a row's first samples."""
    return out / f"{row.name}.npz"


def cells(found, table):
    """Rows of HEADINGS."""
    settings = {row.name: _settings(row) for row in found}
    return [
        [name, *(_range(measured[m]) for m in METRICS), settings.get(name, "")]
        for name, measured in table.items()
    ]


def _range(values):
    return {"range": [float(np.mean(values)), min(values), max(values)]}


def _settings(row):
    parts = [f"w {row.point.weight:g}"] if row.point.weight != 1 else []
    if row.point.interval:
        parts.append("in ({:g}, {:g}]".format(*row.point.interval))
    model, guide = row.search.networks(row.point)
    for whose, network in (("", model), ("guide's ", guide)):
        if network is None:
            continue
        if whose:
            parts.append(f"guide at step {network.reference.step}")
        parts += [f"{whose}EMA {network.reference.ema:g}"] if network.reference.ema else []
        parts += [f"{whose}dropout {network.dropout:g}"] if network.dropout else []
    return ", ".join(parts)


def picture(found, out, columns):
    """A row of samples for each method."""
    from jaxdiff.sampling import image_grid

    shown = [arrays.load_npz(_shown(out, row))["images"][:columns] for row in found]
    return image_grid.grid(np.concatenate(shown), columns)


def _job(args):
    sweeps = cli.require("sweeps", args.sweeps, "folders that sweeps wrote, such as samples/cfg")
    text = cli.require("out", args.out, "a folder such as samples/confirmed")
    out = files.parse_path(text, "--out")
    seeds = list(dict.fromkeys(cli.require("seeds", args.seeds, "seeds such as 1,2,3")))
    found = rows([files.parse_path(each, "--sweeps") for each in sweeps])
    if used := {row.search.seed for row in found} & set(seeds):
        raise UserError(f"--seeds holds {min(used)}, which the sweeps used: give others.")
    known = "efficientnet-lite0, inception, or a classifier's run"
    name = cli.require("features", args.features, known)
    cli.start_jax(False)
    from jaxdiff.claims import claimed_folder
    from jaxdiff.evaluation.extractors import open_extractor
    from studies.tables import markdown, save

    extractor = open_extractor(name)
    settings = {
        "features": [str(extractor), extractor.digest],
        "num_samples": args.num_samples,
        "rows": {row.name: row.search.command(row.point, "OUT") for row in found},
    }
    for row in found:
        row.search.job(row.point, seeds[0])  # which refuses what cannot be sampled
    with claimed_folder(out, settings, SETTINGS, WRITTEN):
        made = cells(found, measure(found, extractor, seeds, args.num_samples, out))
        save(out / "table.json", HEADINGS, made)
        with files.replacing(out / "samples.png") as file:
            picture(found, out, 20).save(file, "png")
    print(markdown(HEADINGS, made))
    print(
        f"{args.num_samples} samples of each row and seed ({', '.join(map(str, seeds))}): mean "
        f"(lowest to highest). Features of {extractor}. Of real images the distance is that of "
        "as many training images, the rest is of those held out."
    )


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "sweeps", tuple[str, ...], (), "Folders that sweeps wrote, of one model")
    cli.add_flag(parser, "seeds", tuple[Seed, ...], (1, 2, 3), "Of sampling; not the sweeps'")
    count = Annotated[int, Range(2, 10**9)]
    cli.add_flag(parser, "num_samples", count, 1000, "Number of samples of every row and seed")
    cli.add_flag(parser, "features", help="NAME[:FRONT_END] of a network, or a classifier's run.")
    cli.add_flag(parser, "out", help="Folder of the table and the picture.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
