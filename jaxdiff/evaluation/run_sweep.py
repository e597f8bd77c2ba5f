"""The job of a sweep: a folder with a table of the points that were measured, and a picture.

search.json   what all points have in common, written first
sweep.csv     a row for each point, written as it ends
pareto.csv    of several metrics, the points that no other is better than in all of them
sweep.png     the best for each pair of values, and of several metrics the Pareto front
"""

import dataclasses
import time

from etils import epath
from tqdm import tqdm

from jaxdiff import files
from jaxdiff.checkpoints.run import digest
from jaxdiff.claims import claimed_folder, in_first
from jaxdiff.evaluation.comparison import Comparison, reference_of
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.heat_maps import draw
from jaxdiff.evaluation.ranking import best, pareto_front, worst
from jaxdiff.evaluation.search import NonFinite, Point
from jaxdiff.parallel import processes
from jaxdiff.progress import progress_bar
from jaxdiff.sampling.trained_model import load
from jaxdiff.tables import add_row, read_rows, write_rows

SETTINGS, TABLE, FRONT, PICTURE = "search.json", "sweep.csv", "pareto.csv", "sweep.png"
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
      metrics: what is measured, the names of their columns.
    """

    folder: epath.Path
    metrics: tuple[str, ...]

    def read(self):
        """{Point: {metric: value}} of all rows."""
        columns = {**READ, **dict.fromkeys(self.metrics, float), "seconds": float}
        return {
            Point(**{name: row[name] for name in READ}): {m: row[m] for m in self.metrics}
            for row in read_rows(self.folder / TABLE, columns)
        }

    def add(self, point, values, seconds):
        """Adds a row; in the first process."""
        add_row(self.folder / TABLE, {**self._row(point, values), "seconds": f"{seconds:.3f}"})

    def write_front(self, measured, front):
        """Writes OUT/pareto.csv, the rows of these points; in the first process."""
        write_rows(self.folder / FRONT, [self._row(point, measured[point]) for point in front])

    def _row(self, point, values):
        row = dataclasses.asdict(point) | {name: repr(values[name]) for name in self.metrics}
        if point.interval is not None:
            row["interval"] = ",".join(map(str, point.interval))
        return row


def pinned(search, points, out):
    """The search at the steps that there are now, or were when the folder's sweep began.

    Raises:
      UserError: as `Search.pinned`.
    """
    path = out / SETTINGS
    return search.pinned(points, files.read_json(path, advice=ADVICE) if files.exists(path) else {})


def run(search, points, features, out, metrics=("fd",), weights=None):
    """Measures all points that are not in the table yet, against all training images.

    Args:
      search: a Search, pinned.
      points: from `grid`.
      features: text that `open_extractor` takes.
      out: folder of the table and the picture, an epath.Path.
      metrics: their names.
      weights: folder of the features' weights; None: $JAXDIFF_WEIGHTS.

    Returns:
      {Point: {metric: value}} of the whole table.

    Raises:
      UserError: for networks, averages, metrics or a folder that cannot be used.
    """
    extractor, table = open_extractor(features, weights), Table(out, tuple(metrics))
    model = load(search.model, search.model_step)
    job = _job(search, points)
    reference = reference_of(model.config, "train", model.reference.run.folder)
    comparison = Comparison(extractor, reference, table.metrics)
    comparison.check(job)
    networks = {"model": digest(model.reference), "features": extractor.digest}
    if search.guide is not None:
        networks["guide"] = digest(load(search.guide, search.guide_step).reference)
    settings = {
        **search.settings(),
        "features": str(extractor),
        "networks": networks,
        "sampling": job.settings["sampling"],
        "reference": [reference.name, reference.digest],
        "metrics": list(table.metrics),
    }
    with claimed_folder(out, settings, SETTINGS, (TABLE, FRONT, PICTURE)):
        return _run(search, points, comparison, table)


def _job(search, points):
    """One of the sampling jobs.

    Raises:
      UserError: if any of the points cannot be sampled.
    """
    distinct = {(*map(str, search.networks(p)), p.weight == 1): p for p in reversed(points)}
    return [search.job(point) for point in distinct.values()][-1]


def _run(search, points, comparison, table):
    metrics, say = table.metrics, tqdm.write if processes.is_first() else lambda _: None
    search.prepare_averages(points)
    measured = table.read()
    # The first process decides, as others may still see an older table.
    left = [point for point in points if processes.agree(int(point not in measured))]
    done, quiet = len(points) - len(left), not processes.is_first()
    with progress_bar(len(points), "point", done, quiet) as bar:
        for point in left:
            start = time.perf_counter()
            try:
                samples = search.samples(point)
            except NonFinite as error:
                say(f"Not measured: {error}")
                measured[point] = {metric: worst(metric) for metric in metrics}
            else:
                values = comparison.values(samples.images, samples.cond, say)
                found = {each.metric: float(each.value) for each in values}
                measured[point] = {metric: found[metric] for metric in metrics}
            in_first(table.add, point, measured[point], time.perf_counter() - start)
            bar.set_postfix_str(_best(measured, metrics), refresh=False)
            bar.update()
    in_first(_finish, measured, table)
    return measured


def _best(measured, metrics):
    points = {metric: best(measured, metric) for metric in metrics}
    found = [f"{m} {measured[point][m]:.4g}" for m, point in points.items() if point]
    return f"best {', '.join(found)}" if found else ""


def _finish(measured, table):
    front = pareto_front(measured, table.metrics) if len(table.metrics) > 1 else []
    if front:
        table.write_front(measured, front)
    with files.replacing(table.folder / PICTURE) as file:
        draw(measured, table.metrics, front, file)
