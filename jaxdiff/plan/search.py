"""The settings of training that are fastest among those that fit."""

import dataclasses
import itertools

from jaxdiff.config import replaced
from jaxdiff.errors import UserError
from jaxdiff.plan import plans
from jaxdiff.plan.report import GIB, Report

MOST_ACCUMULATE = 64
SHOWN = 10
WANTED = 4  # settings to choose among


def candidates(config, topology):
    """Configs that compute the same, and differ in fsdp, accumulate and remat.

    A part of a batch, the micro-batch, is training.batch_size / training.accumulate.
    """
    size, batch = topology.size, config.training.batch_size
    inside = topology.size // topology.slices
    splits = [n for n in (2**k for k in range(inside.bit_length())) if inside % n == 0]
    parts = [2**k for k in range(MOST_ACCUMULATE.bit_length()) if batch % (size * 2**k) == 0]
    if not parts:
        raise UserError(
            f"training.batch_size {batch} is not divided by the {size} devices of {topology}: "
            f"make it a multiple of {size}."
        )
    return [
        replaced(
            config,
            {"mesh.fsdp": fsdp, "training.accumulate": accumulate, "training.remat": remat},
        )
        for fsdp, accumulate, remat in itertools.product(splits, parts, (False, True))
    ]


def fastest(config, topology, means):
    """Reports of the settings that fit, fastest first.

    The plain program says what cannot fit, at once. Of the rest, those that compute, cut and split
    least are estimated until WANTED of them fit; if the means are to compile, the first that fits
    as compiled comes first.

    Args:
      config: a RunConfig.
      topology: a Topology.
      means: a Means.

    Raises:
      UserError: if nothing fits.
    """

    def planned(each, form):
        return each, plans.of_training(each, topology, dataclasses.replace(means, form=form))

    tried = [planned(each, "plain") for each in candidates(config, topology)]
    fitting = sorted(
        (pair for pair in tried if pair[1].fits),
        key=lambda pair: (pair[1].seconds, pair[1].about["accumulate"], pair[1].fsdp),
    )
    if not fitting:
        least = min(sum(report.memory.values()) for _, report in tried)
        raise UserError(
            f"Nothing fits {topology}, whose devices have "
            f"{topology.chip.usable_bytes / GIB:.2f} GiB: the least is {least / GIB:.2f} GiB; use "
            "more devices or larger ones, or a smaller batch or network."
        )
    if means.form != "plain":
        estimated = (planned(each, "quick") for each, _ in fitting)
        fitting = list(itertools.islice((pair for pair in estimated if pair[1].fits), WANTED))
        fitting.sort(key=lambda pair: pair[1].seconds)
    for place, (each, _) in enumerate(fitting):
        _, report = planned(each, means.form) if means.form == "compiled" else fitting[place]
        if report.fits:
            return [report, *(other for _, other in fitting[place + 1 :])]
    raise UserError(f"Nothing that the plain program lets fit {topology} does: use more devices.")


def table(reports: list[Report]):
    """The fastest as text."""
    lines = [
        f"{'fsdp':>6}{'accumulate':>12}{'remat':>7}{'GiB':>9}{'ms a batch':>12}{'images/s':>11}"
    ]
    for report in reports[:SHOWN]:
        about, values = report.about, report.values()
        lines.append(
            f"{report.fsdp:>6}{about['accumulate']:>12}{'yes' if about['remat'] else 'no':>7}"
            f"{sum(report.memory.values()) / GIB:>9.2f}{1e3 * report.seconds:>12.1f}"
            f"{values['most_images_per_s']:>11,.0f}  {report.form}"
        )
    return "\n".join([*lines, "The times are rooflines, lower bounds."])
