"""What programs cost on a topology, as numbers, JSON and text.

The roofline is a lower bound of time: the least time of a device's operations one after another
(jaxdiff.plan.kinds) or, where that takes longer, of what it sends to others at the full bandwidth.
At a utilisation u the time is flops / (u peak), but never less than the bound; flops are those of
the plain program, without what remat computes again.
"""

import dataclasses
from typing import Any

from jaxdiff.plan.hardware import Topology
from jaxdiff.plan.kinds import Collective

GIB, DAY = 2**30, 86_400
FORMS = {
    "compiled": "compiled in full",
    "quick": "blocks compiled one by one and added up",
    "plain": "not compiled: memory is the least it takes, traffic is not known",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one program costs.

    Attributes:
      name: of the program.
      turns: how often this is spent in a batch.
      form: a key of FORMS, how it was found.
      memory: {kind: bytes} of a device.
      flops: {kind: operations} of all devices together, with what remat computes again.
      useful: operations of all devices without that.
      traffic: {kind: bytes} from and to a device's memory; empty where it is not known.
      seconds: {kind: the least time on a device}.
      collectives: of jaxdiff.plan.kinds.Collective.
      compile_s: CPU seconds.
      fits: whether the compiler found room for it; None where it was not asked.
    """

    name: str
    turns: int
    form: str
    memory: dict[str, int]
    flops: dict[str, float] = dataclasses.field(default_factory=dict)
    useful: float = 0.0
    traffic: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    collectives: tuple[Collective, ...] = ()
    compile_s: float = 0.0
    fits: bool | None = None

    def network_seconds(collectives, topology):
    """Seconds that sending takes at least, over the fast network and the slow one.

    Sums over several slices or hosts, h of them, are made within each first; then each of the m
    devices that it has in a group sends 2 (h - 1) / (h m) of the array to the others.
    """
    chip, hosts = topology.chip, topology.size // topology.fast
    fast = sum(each.sent for each in collectives)
    slow = sum(
        2 * (hosts - 1) / hosts * each.bytes / max(1, each.group // hosts)
        for each in collectives
        if each.kind == "all-reduce"
    )
    return max(fast / chip.link_bandwidth, slow / chip.slow_bandwidth)


def text(report):
    """The report for people."""
    topology, chip = report.topology, report.topology.chip
    lines = [
        f"{report.doing.capitalize()} on {topology}: {topology.size} devices ({chip.kind}), mesh "
        f"data {topology.size // report.fsdp} x fsdp {report.fsdp}, batch {report.batch_size:,}; "
        f"{FORMS[report.form]}.",
        "",
        *_memory(report),
        "",
        *_costs(report),
        "",
        *_time(report),
    ]
    return "\n".join([*lines, *report.notes])


def _memory(report):
    rows = [(kind, size) for kind, size in report.memory.items() if size]
    total, usable = sum(report.memory.values()), report.topology.chip.usable_bytes
    verdict = "fits" if report.fits else "does NOT fit"
    lines = [f"{'Memory of a device':<28}{'GiB':>10}"]
    lines += [f"  {kind:<26}{size / GIB:>10.3f}" for kind, size in rows]
    return [*lines, f"  {'together':<26}{total / GIB:>10.3f}  of {usable / GIB:.2f}: {verdict}"]


def _costs(report):
    lines = []
    for cost in report.costs:
        times = f", {cost.turns} times" if cost.turns > 1 else ""
        lines.append(f"{cost.name.capitalize()}{times}; of one device:")
        lines.append(f"  {'':<32}{'TFLOP':>10}{'GB':>10}{'ms at least':>14}")
        for kind in {**cost.flops, **cost.traffic}:
            flops = cost.flops.get(kind, 0) / report.topology.size / 1e12
            moved = f"{cost.traffic.get(kind, 0) / 1e9:.3f}" if cost.traffic else "?"
            bound = 1e3 * cost.seconds.get(kind, 0)
            lines.append(f"  {kind:<32}{flops:>10.4f}{moved:>10}{bound:>14.3f}")
        for each in cost.collectives:
            name = f"{each.count} {each.kind} of {each.dtype} by {each.group}"
            bound = 1e3 * network_seconds([each], report.topology)
            lines.append(f"  {name:<42}{each.bytes / 1e9:>10.3f}{bound:>14.3f}")
    return lines


def _time(report):
    values, chips = report.values(), report.topology.chips
    return [
        f"Roofline: {report.seconds:.4g} s a batch, a lower bound: at most "
        f"{values['most_images_per_s']:,.1f} images/s.",
        f"At a utilisation of {report.utilization:g}: {report.assumed_seconds:.4g} s a batch, "
        f"{values['images_per_s']:,.1f} images/s; {report.images:,} images take "
        f"{report.days:,.2f} days, {values['chip_hours']:,.0f} hours of one of {chips} chips.",
    ]
