r"""Searches a run's history for the guide that helps most: the best bad version.

    python -m jaxdiff.evaluation.sweep --model runs/digits_edm --guide runs/digits_edm_guide \
        --weights 1,1.5,2,2.5,3 --guide_steps 250,500,1000 --model_ema 0.05,0.1 \
        --guide_ema 0.05,0.1,0.15 --num_samples 2000 --metric fd \
        --features runs/digits_classifier --out samples/sweep

Without --guide the model guides itself, told no label (CFG). Every point has the same seed. A row
of OUT/sweep.csv is written as each point ends; the same command goes on after the last one, and
one with other grids adds to them. At the end: OUT/sweep.png, and the command line of the table's
best point.

The metric is the Frechet distance (frechet.py) between features of the samples and those of all
real training images; inf where samples are not all finite.
"""

import dataclasses
import math
import pathlib
import time

from absl import flags
from tqdm import tqdm

from jaxdiff import cli, results
from jaxdiff.checkpoints.run import digest, resolve, varied
from jaxdiff.config import SAMPLERS
from jaxdiff.errors import UserError
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.frechet import Moments, distance
from jaxdiff.evaluation.heat_maps import draw
from jaxdiff.evaluation.search import NonFinite, Point, Search, grid
from jaxdiff.files import local_path, read_json
from jaxdiff.numbers import whole as whole_number
from jaxdiff.parallel import processes
from jaxdiff.progress import progress_bar
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.options import parse_interval
from jaxdiff.sampling.trained_model import open_model

SETTINGS = "search.json"  # what all points have in common
ADVICE = "choose another --out, or delete that folder"
WRITTEN = ("sweep.csv", "sweep.png")


def _number(text):
    value = float(text)
    if math.isnan(value):
        raise ValueError(text)
    return value


def _optional(read):
    return lambda text: read(text) if text else None


READ = {  # how a CSV file's values are read
    "weight": _number,
    "guide_step": _optional(int),
    "model_ema": _optional(_number),
    "guide_ema": _optional(_number),
    "interval": _optional(lambda text: "{:g},{:g}".format(*parse_interval(text))),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """The measured points of a search, in OUT/sweep.csv.

    Attributes:
      folder: OUT.
      metric: what is measured, the name of its column.
    """

    folder: pathlib.Path
    metric: str

    @property
    def path(self):
        """The file."""
        return self.folder / "sweep.csv"

    def read(self):
        """{Point: value} of all rows."""
        columns = {**READ, self.metric: _number, "seconds": _number}
        return {
            Point(**{name: row[name] for name in READ}): row[self.metric]
            for row in results.read_rows(self.path, columns)
        }

    def add(self, point, value, seconds):
        """Adds a row."""
        measured = {self.metric: repr(value), "seconds": f"{seconds:.3f}"}
        results.add_row(self.path, {name: getattr(point, name) for name in READ} | measured)


def pinned(search, points, out):
    """The search of the steps that there are now, or were when the folder's sweep began.

    Raises:
      UserError: as `Search.pinned`.
    """
    path = local_path(out, "--out") / SETTINGS
    return search.pinned(points, read_json(path, advice=ADVICE) if path.is_file() else {})


def run(search, points, features, out, metric="fd"):
    """Measures all points that are not in the table yet: {Point: value} of the whole table.

    Args:
      search: a Search, pinned.
      points: from `grid`.
      features: reference to a classifier.
      out: folder of the table and the picture.
      metric: its name.

    Raises:
      UserError: for networks, averages or a folder that cannot be used.
    """
    table = Table(local_path(out, "--out"), metric)
    seen = open_features(features)
    prepared = _check(search, points, seen)
    settings = _settings(search, prepared, seen) | {"metric": metric}
    with results.claimed_folder(table.folder, settings, SETTINGS, WRITTEN):
        return _run(search, points, seen, prepared, table)


def _run(search, points, seen, prepared, table):
    metric, print_line = table.metric, tqdm.write if processes.is_first() else lambda _: None
    real = real_moments(seen, prepared.model.config.data)
    search.prepare_averages(points)
    measured = table.read()
    # Asked of the first process, lest one that sees an older table wait for others for ever.
    left = [point for point in points if processes.agree(int(point not in measured))]
    done, quiet = len(points) - len(left), not processes.is_first()
    with progress_bar(len(points), "point", done, quiet) as bar:
        for point in left:
            start, value = time.perf_counter(), math.inf
            try:
                images, _ = search.images(point)
            except NonFinite as error:
                print_line(f"Distance inf: {error}")
            else:
                value = distance(real, Moments.of(seen(images)))
            seconds = time.perf_counter() - start
            measured[point] = value
            table.add(point, measured[point], seconds)
            bar.set_postfix_str(f"best {metric} {min(measured.values()):.4g}", refresh=False)
            bar.update()
    if processes.is_first():
        results.replace(table.folder / "sweep.png", lambda file: draw(measured, metric, file))
    return measured


def _check(search, points, seen):
    """Refuses what cannot be searched, before anything is written; returns one of the jobs."""
    model = open_model(search.model, "model")
    if model.config.model.kind == "toy" or model.config.data.low_res_size:
        raise UserError(
            f"{model} makes points or enlarges images, and a sweep is of images made of "
            "noise: give the run of a model of those."
        )
    seen.check(model.config.data)
    search.averages(points)
    guided = [point for point in points if point.weight != 1]
    return [run_sampling.prepare(search.request(point)) for point in points[:1] + guided[:1]][-1]


def _settings(search, prepared, seen):
    """What all points have in common, and of which networks, as they are now."""
    settings = dataclasses.asdict(search)
    del settings["batch_size"]  # which samples do not depend on
    networks = {"model": digest(prepared.model.reference), "features": seen.digest}
    if search.guide is not None:
        networks["guide"] = digest(resolve(varied(search.guide, search.guide_step)))
    return {
        **settings,
        "features": seen.name,
        "networks": networks,
        "sampling": prepared.settings["sampling"],
    }


def main():
    """Searches, and prints the best point with its command line."""
    values = flags.FLAGS
    search = Search(
        model=cli.require("model", values.model, "the folder of a run, such as runs/digits_edm"),
        guide=values.guide,
        num_samples=values.num_samples,
        batch_size=values.batch_size,
        seed=values.seed,
        sampler=values.sampler,
        steps=values.steps,
    )
    points = grid(
        search,
        [cli.number("weights", text) for text in values.weights],
        [whole("guide_steps", text) for text in values.guide_steps],
        [cli.number("model_ema", text) for text in values.model_ema],
        [cli.number("guide_ema", text) for text in values.guide_ema],
        values.interval,
    )
    features = cli.require("features", values.features, "a classifier's run")
    out = cli.require("out", values.out, "a folder such as samples/sweep")
    cli.use_compilation_cache()
    processes.initialize(values.distributed)
    search = pinned(search, points, out)
    measured = run(search, points, features, out, values.metric)
    best = min(measured, key=measured.get)
    if measured[best] == math.inf:
        raise UserError("No point has samples that are all finite: choose smaller --weights.")
    if processes.is_first():
        print(f"Best of {len(measured)} points, {values.metric} {measured[best]:.4g}:")
        print(search.command(best, f"{out}/best"))


def whole(name, text):
    """A whole number in a list that a flag holds."""
    number = whole_number(text.strip())
    if number is None:
        raise UserError(f"--{name} holds {text}: give whole numbers.")
    return number


if __name__ == "__main__":
    flags.DEFINE_string(
        "model", None, "The run to sample: FOLDER[@STEP][:ema=LENGTH,dropout=RATE]."
    )
    flags.DEFINE_string("guide", None, "Run of the guide; default: CFG by the model itself.")
    flags.DEFINE_list("weights", [], "Weights; 1 is not guided.")
    flags.DEFINE_list("guide_steps", [], "Steps of the guide's run; default: its latest.")
    flags.DEFINE_list("model_ema", [], "Lengths of the model's average; default: its first.")
    flags.DEFINE_list("guide_ema", [], "Lengths of the guide's average; default: its first.")
    flags.DEFINE_multi_string("interval", [], "LO,HI in sigma/alpha, repeatable: guide there only.")
    flags.DEFINE_integer("num_samples", 2000, "Of every point.", lower_bound=2)
    flags.DEFINE_integer("batch_size", 250, "How many at once, over all devices.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of every point.")
    flags.DEFINE_enum("sampler", None, SAMPLERS, "Default: the run's.")
    flags.DEFINE_string("steps", None, "Default: the run's.")
    flags.DEFINE_enum("metric", "fd", ["fd"], "fd: Frechet distance of the features.")
    flags.DEFINE_string("features", None, "A classifier's run, which sees the images.")
    flags.DEFINE_string("out", "samples/sweep", "Folder of the table and the picture.")
    flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")
    cli.run(main)
