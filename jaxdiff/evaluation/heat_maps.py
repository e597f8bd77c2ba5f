"""Pictures of a search: the best that was found for each pair of values."""

import math

from matplotlib.figure import Figure

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


def draw(measured, metric, path):
    """Draws a heat map for each pair of fields in which points differ, at most two; a PNG.

    Args:
      measured: {Point: value}, lower is better.
      metric: its name.
      path: of the picture, or a binary file to write it into.
    """
    values = {name: values_of(measured, name) for name in TITLES}
    pairs = [pair for pair in PAIRS if all(len(values[name]) > 1 for name in pair)]
    if not pairs:
        pairs = [pair for pair in PAIRS if any(len(values[name]) > 1 for name in pair)][:1]
    pairs = pairs[:2] or PAIRS[:1]
    figure = Figure(figsize=(5.2 * len(pairs), 4.2), layout="constrained")
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        _panel(axes, measured, x, y, values[x] or [None], values[y] or [None])
        axes.set_title(f"{metric}, the lowest over all else")
    figure.savefig(path, dpi=120, format="png")


def values_of(measured, name):
    """Values of a field, in order; first None, where a guided point has it beside others."""
    given = sorted({getattr(point, name) for point in measured} - {None})
    lacking = any(getattr(point, name) is None and point.weight != 1 for point in measured)
    return [None] * (lacking and bool(given)) + given


def best_of(measured, x, y, columns, rows):
    """[rows][columns] of the lowest value of points with these x and y; None where there is none.

    A point of weight 1 has no guide, and belongs to every column or row of guides; where neither
    axis is the weight it would hide what guides do, and is left out.
    """
    if "weight" not in (x, y):
        measured = {p: v for p, v in measured.items() if p.weight != 1} or measured

    def fits(point, name, wanted):
        own = getattr(point, name)
        return own == wanted or (own is None and point.weight == 1)

    def lowest(row, column):
        found = [v for p, v in measured.items() if fits(p, x, column) and fits(p, y, row)]
        return min(found, default=None)

    return [[lowest(row, column) for column in columns] for row in rows]


def _panel(axes, measured, x, y, columns, rows):
    best = best_of(measured, x, y, columns, rows)
    axes.imshow(
        [[v if v is not None and math.isfinite(v) else math.nan for v in row] for row in best],
        aspect="auto",
        origin="lower",
        cmap="viridis_r",
    )
    for r, row in enumerate(best):
        for c, value in enumerate(row):
            if value is not None:
                box = {"boxstyle": "round,pad=.15", "facecolor": "white", "alpha": 0.6, "lw": 0}
                axes.text(c, r, f"{value:.3g}", ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xticks(range(len(columns)), [_text(v) for v in columns])
    axes.set_yticks(range(len(rows)), [_text(v) for v in rows])
    axes.set(xlabel=TITLES[x], ylabel=TITLES[y])


def _text(value):
    if value is None:
        return "-"
    return ",".join(f"{part:g}" for part in (value if isinstance(value, tuple) else (value,)))
