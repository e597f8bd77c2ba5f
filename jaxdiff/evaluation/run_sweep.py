"""The job of a sweep: a folder with a table of the points that were measured, and a picture.

search.json   what all points have in common, written first
sweep.csv     a row for each point, written as it ends
sweep.png     the best of them for each pair of values
"""

import dataclasses
import math
import time

from etils import epath
from tqdm import tqdm

from jaxdiff import files
from jaxdiff.checkpoints.run import digest
from jaxdiff.claims import claimed_folder, in_first
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.heat_maps import draw
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from jaxdiff.evaluation.search import NonFinite, Point
from jaxdiff.parallel import processes
from jaxdiff.progress import progress_bar
from jaxdiff.sampling.trained_model import load
from jaxdiff.tables import add_row, read_rows

SETTINGS, TABLE, PICTURE = "search.json", "sweep.csv", "sweep.png"
ADVICE = "choose another --out, or delete that folder"


def _optional(read):
    return lambda text: read(text) if text else None


READ = {  # how a CSV file's values are read
    "weight": float,
    "guide_step": _optional(int),
    "model_ema": _optional(float),
    "guide_ema": _optional(float),
    "interval": _optional(lambda text: tuple(map(float, text.split(",")))),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """The measured points of a search, in OUT/sweep.csv.

    Attributes:
      folder: OUT.
      metric: what is measured, the name of its column.
    """

    folder: epath.Path
    metric: str

    def read(self):
        """{Point: value} of all rows."""
        columns = {**READ, self.metric: float, "seconds": float}
        return {
            Point(**{name: row[name] for name in READ}): row[self.metric]
            for row in read_rows(self.folder / TABLE, columns)
        }

    def add(self, point, value, seconds):
        """Adds a row; in the first process."""
        row = dataclasses.asdict(point) | {self.metric: repr(value), "seconds": f"{seconds:.3f}"}
        if point.interval is not None:
            row["interval"] = ",".join(map(str, point.interval))
        add_row(self.folder / TABLE, row)


def pinned(search, points, out):
    """The search at the steps that there are now, or were when the folder's sweep began.

    Raises:
      UserError: as `Search.pinned`.
    """
    path = out / SETTINGS
    return search.pinned(points, files.read_json(path, advice=ADVICE) if files.exists(path) else {})


def run(search, points, features, out, metric="fd"):
    """Measures all points that are not in the table yet: {Point: value} of the whole table.

    Args:
      search: a Search, pinned.
      points: from `grid`.
      features: reference to a classifier.
      out: folder of the table and the picture, an epath.Path.
      metric: its name.

    Raises:
      UserError: for networks, averages or a folder that cannot be used.
    """
    seen, table = open_features(features), Table(out, metric)
    settings = {**search.settings(), **_settings(search, points, seen), "metric": metric}
    with claimed_folder(out, settings, SETTINGS, (TABLE, PICTURE)):
        return _run(search, points, seen, table)


def _run(search, points, seen, table):
    metric, print_line = table.metric, tqdm.write if processes.is_first() else lambda _: None
    real = real_moments(seen, search.networks(points[0])[0].config)
    search.prepare_averages(points)
    measured = table.read()
    # The first process decides, as others may still see an older table.
    left = [point for point in points if processes.agree(int(point not in measured))]
    done, quiet = len(points) - len(left), not processes.is_first()
    with progress_bar(len(points), "point", done, quiet) as bar:
        for point in left:
            start, value = time.perf_counter(), math.inf
            try:
                images = search.samples(point).images
            except NonFinite as error:
                print_line(f"Distance inf: {error}")
            else:
                value = distance(real, Moments.of(seen(images)))
            measured[point] = value
            in_first(table.add, point, value, time.perf_counter() - start)
            bar.set_postfix_str(f"best {metric} {min(measured.values()):.4g}", refresh=False)
            bar.update()
    in_first(_draw, measured, metric, table.folder / PICTURE)
    return measured


def _draw(measured, metric, path):
    with files.replacing(path) as file:
        draw(measured, metric, file)


def _settings(search, points, seen):
    """Of which networks the points are, as they are now, and how they are sampled.

    Raises:
      UserError: for points that cannot be sampled, or features of other images.
    """
    model = load(search.model, search.model_step)
    seen.check(model.config.data.shape)
    networks = {"model": digest(model.reference), "features": seen.digest}
    if search.guide is not None:
        guide = load(search.guide, search.guide_step)
        networks["guide"] = digest(guide.reference)
    distinct = {(*map(str, search.networks(p)), p.weight == 1): p for p in reversed(points)}
    job = [search.job(point) for point in distinct.values()][-1]
    return {"features": seen.name, "networks": networks, "sampling": job.settings["sampling"]}
