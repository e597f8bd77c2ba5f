"""Which of several measurements are best: of one metric, or of several that contradict each other.

A point dominates another if no metric of it is worse and at least one is better. The Pareto front
is the points that no other dominates: of these, none can be improved in one metric without losing
in another.
"""

import math

from jaxdiff.evaluation.table import METRICS


def worst(metric):
    """The value of samples that have none, as they are not finite: worse than any other."""
    return math.inf if METRICS[metric].lower else -math.inf


def cost(metric, value):
    """The value, negative if higher is better; inf where it is no number."""
    value = value if METRICS[metric].lower else -value
    return math.inf if math.isnan(value) else value


def best(measured, metric):
    """The first point whose value of a metric is best; None if no value is finite.

    Args:
      measured: {point: {metric: value}}.
      metric: its name.
    """
    point = min(measured, key=lambda point: cost(metric, measured[point][metric]), default=None)
    return point if point is not None and math.isfinite(measured[point][metric]) else None


def pareto_front(measured, metrics):
    """The points that no other dominates, ordered by the first metric, the best first.

    Args:
      measured: {point: {metric: value}}; points with a value that is not finite are left out.
      metrics: names of at least one of them.
    """
    costs = {
        point: tuple(cost(metric, values[metric]) for metric in metrics)
        for point, values in measured.items()
        if all(math.isfinite(values[metric]) for metric in metrics)
    }
    # What dominates a point comes before it in the order of tuples.
    front = []
    for point in sorted(costs, key=costs.get):
        is_dominated = any(
            costs[other] != costs[point]
            and all(a <= b for a, b in zip(costs[other], costs[point], strict=True))
            for other in front
        )
        if not is_dominated:
            front.append(point)
    return front
