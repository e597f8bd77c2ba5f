"""Pictures of a search: the best that was found for each pair of values, and the Pareto front."""

import math

from matplotlib.figure import Figure

from jaxdiff.evaluation.table import METRICS

TITLES = {
    "weight": "weight",
    "guide_step": "guide step",
    "model_ema": "EMA of the model",
    "guide_ema": "EMA of the guide",
    "interval": "interval",
}
PAIRS = (
    ("weight", "guide_step"),
    ("guide_ema", "model_ema"),
    ("weight", "model_ema"),
    ("weight", "interval"),
    ("weight", "guide_ema"),
)
WIDTH, HEIGHT = 5.2, 4.2  # of a panel, in inches


def draw(measured, metrics, front, file):
    """Draws a PNG: a row of heat maps for each metric, and beside them the Pareto front.

    A heat map is of two fields in which points differ; there are at most two in a row.

    Args:
      measured: {Point: {metric: value}}.
      metrics: their names.
      front: Points of the Pareto front of all metrics; empty: it is not drawn.
      file: binary, to write the picture into.
    """
    values = {name: values_of(measured, name) for name in TITLES}
    pairs = [pair for pair in PAIRS if all(len(values[name]) > 1 for name in pair)]
    if not pairs:
        pairs = [pair for pair in PAIRS if any(len(values[name]) > 1 for name in pair)][:1]
    pairs = pairs[:2] or PAIRS[:1]
    columns = len(pairs) + bool(front)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * len(metrics)), layout="constrained")
    places = figure.add_gridspec(len(metrics), columns)
    for row, metric in enumerate(metrics):
        own = {point: each[metric] for point, each in measured.items()}
        lower = METRICS[metric].lower
        for column, (x, y) in enumerate(pairs):
            axes = figure.add_subplot(places[row, column])
            _panel(axes, own, x, y, values[x] or [None], values[y] or [None], lower)
            axes.set_title(f"{metric}, the {'lowest' if lower else 'highest'} over all else")
    if front:
        _scatter(figure.add_subplot(places[:, -1]), measured, metrics, front)
    figure.savefig(file, dpi=120, format="png")


def values_of(measured, name):
    """Values of a field, in order; first None, where a guided point has it beside others."""
    given = sorted({getattr(point, name) for point in measured} - {None})
    lacking = any(getattr(point, name) is None and point.weight != 1 for point in measured)
    return [None] * (lacking and bool(given)) + given


def best_of(measured, x, y, columns, rows, lower=True):
    """[rows][columns] of the best value of points with these x and y; None where there is none.

    A point of weight 1 has no guide, and belongs to every column or row of guides; where neither
    axis is the weight it would hide what guides do, and is left out.

    Args:
      measured: {Point: value}.
      x, y: names of fields.
      columns, rows: their values.
      lower: whether lower is better.
    """
    if "weight" not in (x, y):
        measured = {p: v for p, v in measured.items() if p.weight != 1} or measured

    def fits(point, name, wanted):
        own = getattr(point, name)
        return own == wanted or (own is None and point.weight == 1)

    def best(row, column):
        found = [v for p, v in measured.items() if fits(p, x, column) and fits(p, y, row)]
        return (min if lower else max)(found, default=None)

    return [[best(row, column) for column in columns] for row in rows]


def _panel(axes, measured, x, y, columns, rows, lower):
    best = best_of(measured, x, y, columns, rows, lower)
    axes.imshow(
        [[v if v is not None and math.isfinite(v) else math.nan for v in row] for row in best],
        aspect="auto",
        origin="lower",
        cmap="viridis_r" if lower else "viridis",
    )
    for r, row in enumerate(best):
        for c, value in enumerate(row):
            if value is not None:
                box = {"boxstyle": "round,pad=.15", "facecolor": "white", "alpha": 0.6, "lw": 0}
                axes.text(c, r, f"{value:.3g}", ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xticks(range(len(columns)), [_text(v) for v in columns])
    axes.set_yticks(range(len(rows)), [_text(v) for v in rows])
    axes.set(xlabel=TITLES[x], ylabel=TITLES[y])


def _scatter(axes, measured, metrics, front):
    """All points by the first two metrics; those of the front are marked with their weights."""
    x, y = metrics[:2]

    def places(points):
        return [[measured[point][metric] for point in points] for metric in (x, y)]

    axes.scatter(*places(_finite(measured, (x, y))), s=18, color="0.7")
    line = "-" if len(metrics) == 2 else "none"  # of more than two it is a surface
    axes.plot(*places(front), linestyle=line, marker="o", color="tab:red", markersize=5)
    for point in front:
        at = tuple(measured[point][metric] for metric in (x, y))
        axes.annotate(f"{point.weight:g}", at, (4, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xlabel=f"{x} ({_better(x)} is better)",
        ylabel=f"{y} ({_better(y)} is better)",
        title=f"Pareto front of {' and '.join(metrics)}, by weight",
    )
    axes.set_box_aspect(1)
    axes.margins(0.1)


def _better(metric):
    return "lower" if METRICS[metric].lower else "higher"


def _finite(measured, metrics):
    return [p for p, values in measured.items() if all(math.isfinite(values[m]) for m in metrics)]


def _text(value):
    if value is None:
        return "-"
    return ",".join(f"{part:g}" for part in (value if isinstance(value, tuple) else (value,)))
