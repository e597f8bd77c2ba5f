r"""Samples what sweeps found afresh, with seeds that they did not use: one table, one picture.

    python -m jaxdiff.evaluation.confirm --sweeps samples/cfg,samples/both \
        --features runs/digits_classifier --seeds 1,2,3 --out samples/confirmed

The lowest of many measured distances is biased, as the search chose it for its luck too. So the
best point of each sweep's folder is sampled again: unguided (once for each rate of dropout of the
model), guided, and the best of those that have one length of average for both networks, where that
has two, or the other way round.
Each is scored as `scores.py` says. Of every number the table has the mean over the seeds, and the
lowest and highest. Rows that OUT/samples.csv holds are not sampled again.
"""

import dataclasses
import json
import math

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.checkpoints.run import resolve
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation import digits, scores, sweep
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.frechet import Moments, distance
from jaxdiff.evaluation.search import Point, Search
from jaxdiff.files import local_path, read_json
from jaxdiff.parallel import processes
from jaxdiff.sampling import image_grid, run_sampling
from jaxdiff.sampling.trained_model import open_model

METRICS, FORMATS = ("fd", "agreement", "diversity"), (".3g", ".1%", ".1%")
REAL = "real images"
SETTINGS = "confirm.json"
WRITTEN = ("samples.csv", "table.md", "samples.png")
COLUMNS = {"method": str, "seed": int, **dict.fromkeys(METRICS, float)}
# What sweeps must share, so that their distances compare.
COMMON = ("run", "step", "sampling", "num_samples", "features")


@dataclasses.dataclass(frozen=True)
class Row:
    """What is sampled.

    Attributes:
      name: of the method.
      search: that found it.
      point: of the search.
    """

    name: str
    search: Search
    point: Point


def rows(folders):
    """The rows that sweeps' folders give: unguided ones, then each folder's.

    Raises:
      UserError: for a folder that holds no search, searches whose distances do not compare, and
        rows of the same name.
    """
    found, plain, common = [], {}, {name: set() for name in COMMON}
    for folder in (local_path(each, "--sweeps") for each in folders):
        search, shared, measured = _read(folder)
        for name, value in shared.items():
            common[name].add(value)
        dropout = resolve(search.model).dropout
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
        raise UserError(f"{', '.join(folders)} hold no measured points: let the sweeps go on.")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two rows would be called {repeated[0]}: rename a sweep's folder.")
    for name, values in common.items():
        if len(values) > 1:
            raise UserError(
                f"The sweeps have different values of {name}, {' and '.join(sorted(values))}: "
                "give sweeps of one model at one step, sampled and measured alike."
            )
    return found


def _read(folder):
    """(Search, {what sweeps must share: text}, {Point: value}) of a sweep's folder."""
    path = folder / sweep.SETTINGS
    if not path.is_file():
        raise UserError(f"{folder} is not the folder of a sweep: give its --out.")
    settings = read_json(path, advice="sweep again in another --out")
    try:
        fields = {field.name for field in dataclasses.fields(Search)} & settings.keys()
        search = Search(**{name: settings[name] for name in fields})
        table = sweep.Table(folder, settings["metric"])
        shared = {name: json.dumps(settings[name]) for name in COMMON[2:]}
    except (KeyError, TypeError):
        raise UserError(f"{folder} is not the folder of a sweep: give its --out.") from None
    measured = {point: value for point, value in table.read().items() if math.isfinite(value)}
    model = resolve(search.request(Point(weight=1)).model)
    return search, {"run": str(model.run.folder), "step": str(model.step), **shared}, measured


def judge(data):
    """Of a config's section `data`: ((uint8 images, labels) -> Score, Score of held-out images).

    Raises:
      UserError: where there are no labels to agree with.
    """
    if not data.num_classes:
        raise UserError("The model was trained without labels, and rows are scored by them.")
    if data.name == "digits":
        return digits.score, digits.held_out()
    real = scores.real(*(open_split(data, split) for split in ("train", data.held_out)))
    return lambda images, labels: real.score(scores.rows_of(images), labels), real.held_out


def measure(found, features, seeds, num_samples, out):
    """Samples and scores every row with every seed: {name: {metric: [value of each seed]}}.

    Samples of the first seed are in `out`, at `_shown`. The last row, REAL, is of real images:
    the distance of as many training images, the rest of those held out.
    """
    table, path = {}, out / "samples.csv"
    kept = {(row["method"], row["seed"]): row for row in results.read_rows(path, COLUMNS)}
    data = open_model(found[0].search.model, "sweeps").config.data
    (score, held_out), real = judge(data), real_moments(features, data)
    for row in found:
        search = dataclasses.replace(row.search, num_samples=num_samples)
        for seed in seeds:
            if processes.agree(int((row.name, seed) not in kept)):
                images, labels = search.images(row.point, seed)
                values = (
                    distance(real, Moments.of(features(images))),
                    *_values(score(images, labels)),
                )
                measured = dict(zip(METRICS, values, strict=True))
                kept[row.name, seed] = {"method": row.name, "seed": seed, **measured}
                if seed == seeds[0]:
                    results.save(_shown(out, row), {"seed": seed}, {"images": images[:100]})
                results.add_row(path, kept[row.name, seed])
                if processes.is_first():
                    print(f"{row.name}, seed {seed}: fd {values[0]:.4g}", flush=True)
        table[row.name] = {m: [kept[row.name, s][m] for s in seeds] for m in METRICS}
    drawn = [distance(real, training(features, data, num_samples, seed)) for seed in seeds]
    table[REAL] = dict(zip(METRICS, (drawn, *([v] for v in _values(held_out))), strict=True))
    return table


def _values(score):
    return float(score.total_agreement), float(np.nanmean(score.diversity))


def training(features, data, count, seed):
    """Moments of `count` training images, as many of each class as there would be samples.

    No samples can be expected to be closer to all training images than these. The last images of
    a class with too few are repeated.
    """
    batch = scores.some(open_split(data, "train"))
    order = np.random.RandomState(seed).permutation(len(batch["label"]))
    labels = batch["label"][order]
    classes = np.unique(labels)  # as samples are of those that have images
    wanted = classes[np.arange(count) % len(classes)]
    rows = [np.resize(order[labels == c], (wanted == c).sum()) for c in classes]
    return Moments.of(features(batch["image"][np.concatenate(rows)]))


def _shown(out, row):
    """The file of a row's first samples."""
    return out / f"{row.name}.npz"


def markdown(found, table):
    """The table as text: mean (lowest to highest) of each number."""
    settings = {row.name: _settings(row) for row in found}
    lines = [
        "| | Frechet distance | label agreement | diversity | settings |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, measured in table.items():
        cells = [_spread(measured[m], form) for m, form in zip(METRICS, FORMATS, strict=True)]
        lines.append(f"| {' | '.join([name, *cells, settings.get(name, '')])} |")
    return "\n".join(lines)


def _spread(values, form):
    mean, low, high = (f"{f(values):{form}}" for f in (np.mean, min, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def _settings(row):
    request, parts = row.search.request(row.point), []
    if row.point.weight != 1:
        parts.append(f"w {row.point.weight:g}")
    if row.point.interval:
        parts.append(f"in ({row.point.interval}]")
    named = [("", resolve(request.model)), *(("guide's ", resolve(g)) for g in request.guide)]
    for whose, reference in named:
        if whose:
            parts.append(f"guide at step {reference.step}")
        parts += [f"{whose}EMA {reference.ema:g}"] if reference.ema else []
        parts += [f"{whose}dropout {reference.dropout:g}"] if reference.dropout else []
    return ", ".join(parts)


def picture(found, out, columns):
    """A row of samples for each method."""
    shown = [results.load(_shown(out, row))["images"][:columns] for row in found]
    return image_grid.grid(np.concatenate(shown), columns)


def main():
    """Prints the table, and writes it beside the picture."""
    values = flags.FLAGS
    if not values.sweeps:
        raise UserError("--sweeps is missing: give folders that sweeps wrote, such as samples/cfg.")
    out = local_path(cli.require("out", values.out, "a folder such as samples/confirmed"), "--out")
    seeds = list(dict.fromkeys(sweep.whole("seeds", text) for text in values.seeds))
    if not seeds:
        raise UserError("--seeds is empty: give seeds such as 1,2,3.")
    found = rows(values.sweeps)
    if used := {row.search.seed for row in found} & set(seeds):
        raise UserError(f"--seeds holds {min(used)}, which the sweeps used: give others.")
    cli.use_compilation_cache()
    processes.initialize(values.distributed)
    features = open_features(cli.require("features", values.features, "a classifier's run"))
    settings = {
        "features": [features.name, features.digest],
        "num_samples": values.num_samples,
        "rows": {row.name: row.search.command(row.point, "OUT") for row in found},
    }
    if processes.is_first():
        for folder in values.sweeps:
            print(f"{folder}: the best of {len(_read(local_path(folder, '--sweeps'))[-1])} points")
    for row in found:
        search = dataclasses.replace(row.search, num_samples=values.num_samples)
        run_sampling.prepare(
            search.request(row.point, seeds[0])
        )  # so that what is refused is refused now
    with results.claimed_folder(out, settings, SETTINGS, WRITTEN):
        table = measure(found, features, seeds, values.num_samples, out)
        if processes.is_first():
            _publish(found, table, features, seeds, values.num_samples, out)


def _publish(found, table, features, seeds, num_samples, out):
    """Prints the table, and writes it and the picture."""
    caption = (
        f"{num_samples} samples of each row and seed ({', '.join(map(str, seeds))}): mean "
        f"(lowest to highest). Features of {features.name}. Of real images the distance is that of "
        "as many training images, the rest is of those held out."
    )
    text = f"{markdown(found, table)}\n\n{caption}"
    results.replace(out / "table.md", lambda file: file.write(f"{text}\n".encode()))
    drawn = picture(found, out, 20)
    results.replace(out / "samples.png", lambda file: drawn.save(file, "png"))
    print(text)


if __name__ == "__main__":
    flags.DEFINE_list("sweeps", [], "Folders that sweeps wrote, of one model.")
    flags.DEFINE_list("seeds", ["1", "2", "3"], "Of sampling; not the sweeps'.")
    flags.DEFINE_integer("num_samples", 1000, "Of every row and seed.", lower_bound=2)
    flags.DEFINE_string("features", None, "A classifier's run, which sees the images.")
    flags.DEFINE_string("out", None, "Folder of the table and the picture.")
    flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")
    cli.run(main)
