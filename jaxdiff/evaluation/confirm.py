r"""Samples what sweeps found afresh, with seeds that they did not use: one table, one picture.

    python -m jaxdiff.evaluation.confirm --sweeps samples/cfg,samples/both \
        --features runs/digits_classifier --seeds 1,2,3 --out samples/confirmed

The lowest of many measured distances is biased, as the search chose it for its luck too. So the
best point of each sweep's folder is sampled again: unguided, guided, and where the search had both
networks' averages, guided with one length for both. Each is scored as `scores.py` says. Of every
number the table has the mean over the seeds, and the lowest and highest. Rows that OUT/samples.csv
holds are not sampled again.
"""

import dataclasses
import json
import pathlib

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation import digits, scores, sweep
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.frechet import Moments, distance
from jaxdiff.evaluation.search import Point, Search
from jaxdiff.sampling import pictures
from jaxdiff.sampling.model import open_model

METRICS = ("fd", "agreement", "diversity")


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
    """The rows that sweeps' folders give: unguided once, then each folder's.

    Raises:
      UserError: for a folder that holds no search, searches of different models or samplers, and
        rows of the same name.
    """
    found, plain = [], {}
    for folder in map(pathlib.Path, folders):
        search, measured = _read(folder)
        plain |= {(search, point): v for point, v in measured.items() if point.weight == 1}
        guided = {point: v for point, v in measured.items() if point.weight != 1}
        if not guided:
            continue
        found.append(Row(folder.name, search, min(guided, key=guided.get)))
        alike = {p: v for p, v in guided.items() if p.guide_ema == p.model_ema}
        if 0 < len(alike) < len(guided) and any(p.guide_ema for p in guided):
            best = min(alike, key=alike.get)
            found.append(Row(f"{folder.name}, one EMA", search, best))
    if plain:
        found.insert(0, Row("unguided", *min(plain, key=plain.get)))
    names = [row.name for row in found]
    if not found:
        raise UserError(f"{', '.join(folders)} hold no measured points: let the sweeps go on.")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Two rows would be called {repeated[0]}: rename a sweep's folder.")
    for field in ("model", "sampler", "steps"):
        values = {str(getattr(row.search, field)) for row in found}
        if len(values) > 1:
            raise UserError(
                f"The sweeps have different values of {field}, {' and '.join(sorted(values))}: "
                "give sweeps of one model, sampled alike."
            )
    return found


def _read(folder):
    """(Search, {Point: value}) of a sweep's folder."""
    try:
        settings = json.loads((folder / sweep.SETTINGS).read_text())
        fields = {field.name for field in dataclasses.fields(Search)} & settings.keys()
        search = Search(**{name: settings[name] for name in fields})
        return search, sweep.Table(folder, settings["metric"]).read()
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} is not the folder of a sweep: give its --out.") from None


def reader(data):
    """(uint8 images, labels) -> Score, for a config's section `data`.

    Raises:
      UserError: where there are no labels to agree with.
    """
    if not data.num_classes:
        raise UserError("The model was trained without labels, and rows are scored by them.")
    if data.name == "digits":
        return digits.score
    real = scores.real(*(open_split(data, split) for split in ("train", data.held_out)))
    return lambda images, labels: real.score(scores.rows_of(images), labels)


def measure(found, features, seeds, num_samples, out):
    """{row's name: {metric: [value of each seed]}}, and {name: images of the first seed}."""
    table, shown = {}, {}
    path = out / "samples.csv"
    kept = {(row["method"], int(row["seed"])): row for row in results.read_rows(path)}
    model = open_model(found[0].search.model, "sweeps")
    judge, real = reader(model.config.data), real_moments(features, model.config.data)
    for row in found:
        search = dataclasses.replace(row.search, num_samples=num_samples)
        for seed in seeds:
            if (row.name, seed) not in kept:
                images, labels = search.images(row.point, seed)
                score = judge(images, labels)
                values = (
                    distance(real, Moments.of(features(images))),
                    float(score.total_agreement),
                    float(np.nanmean(score.diversity)),
                )
                measured = dict(zip(METRICS, values, strict=True))
                kept[row.name, seed] = {"method": row.name, "seed": seed, **measured}
                if seed == seeds[0]:
                    results.save(out / f"{row.name}.npz", {"seed": seed}, {"images": images[:100]})
                results.add_row(path, kept[row.name, seed])
                print(f"{row.name}, seed {seed}: fd {values[0]:.4g}", flush=True)
        table[row.name] = {m: [float(kept[row.name, s][m]) for s in seeds] for m in METRICS}
        shown[row.name] = results.load(out / f"{row.name}.npz")["images"]
    return table, shown


def markdown(found, table):
    """The table as text: mean (lowest to highest) of each number."""
    lines = [
        "| | Frechet distance | label agreement | diversity | settings |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found:
        fd, agreement, diversity = (np.array(table[row.name][m]) for m in METRICS)
        lines.append(
            f"| {row.name} | {fd.mean():.3g} ({fd.min():.3g} to {fd.max():.3g}) "
            f"| {agreement.mean():.1%} ({agreement.min():.1%} to {agreement.max():.1%}) "
            f"| {diversity.mean():.1%} | {_settings(row)} |"
        )
    return "\n".join(lines)


def _settings(row):
    point, parts = row.point, []
    if point.weight != 1:
        parts.append(f"w {point.weight:g}")
    if point.interval:
        parts.append(f"in {point.interval}")
    if point.guide_step:
        parts.append(f"guide at step {point.guide_step}")
    for name, title in (("model_ema", "EMA"), ("guide_ema", "guide's EMA")):
        if getattr(point, name):
            parts.append(f"{title} {getattr(point, name):g}")
    return ", ".join(parts)


def picture(shown, columns):
    """A row of samples for each method."""
    tiles = np.concatenate([images[:columns] for images in shown.values()])
    return pictures.grid(tiles, columns)


def main():
    """Prints the table, and writes it beside the picture."""
    values = flags.FLAGS
    if not values.sweeps:
        raise UserError("--sweeps is missing: give folders that sweeps wrote, such as samples/cfg.")
    out = pathlib.Path(cli.require("out", values.out, "a folder such as samples/confirmed"))
    seeds = list(dict.fromkeys(sweep.whole("seeds", text) for text in values.seeds))
    if not seeds:
        raise UserError("--seeds is empty: give seeds such as 1,2,3.")
    found = rows(values.sweeps)
    if used := {row.search.seed for row in found} & set(seeds):
        raise UserError(f"--seeds holds {min(used)}, which the sweeps used: give others.")
    cli.use_compilation_cache()
    features = open_features(cli.require("features", values.features, "a classifier's run"))
    settings = {
        "features": features.name,
        "num_samples": values.num_samples,
        "rows": {row.name: row.search.command(row.point, "OUT") for row in found},
    }
    for folder in values.sweeps:
        print(f"{folder}: the best of {len(_read(pathlib.Path(folder))[1])} points")
    results.claim_folder(out, settings, "confirm.json")
    try:
        table, shown = measure(found, features, seeds, values.num_samples, out)
    except KeyboardInterrupt:
        raise UserError("Stopped: the same command continues.") from None
    text = markdown(found, table)
    (out / "table.md").write_text(text + "\n")
    picture(shown, 20).save(out / "samples.png")
    print(text)


if __name__ == "__main__":
    flags.DEFINE_list("sweeps", [], "Folders that sweeps wrote, of one model.")
    flags.DEFINE_list("seeds", ["1", "2", "3"], "Of sampling; not the sweeps'.")
    flags.DEFINE_integer("num_samples", 1000, "Of every row and seed.", lower_bound=2)
    flags.DEFINE_string("features", None, "A classifier's run, which sees the images.")
    flags.DEFINE_string("out", None, "Folder of the table and the picture.")
    cli.run(main)
