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
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))
FORMS = {
    "compiled": "compiled in full",
    "quick": "estimated: blocks of training one by one, a sampler for one device",
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

    def roofline(self, topology):
        """Seconds that one turn takes at least."""
        return max(sum(self.seconds.values()), network_seconds(self.collectives, topology))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What training or sampling costs.

    Attributes:
      doing: "training" or "sampling".
      topology: the devices.
      fsdp: how many of them parameters are split over.
      batch_size: samples of a batch over all devices.
      images: how many the whole of it takes or makes.
      costs: of the programs of a batch.
      utilization: the share of the peak that is assumed.
      about: settings that decide it, for people.
      room: {what is written: (how many of them at most, bytes of one)}.
      notes: sentences.
    """

    doing: str
    topology: Topology
    fsdp: int
    batch_size: int
    images: int
    costs: tuple[Cost, ...]
    utilization: float
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    room: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def form(self):
        """How it was found: the least of the programs' forms."""
        return max((cost.form for cost in self.costs), key=list(FORMS).index)

    @property
    def memory(self):
        """{kind: bytes} of a device, of the program that takes most."""
        return max((cost.memory for cost in self.costs), key=lambda m: sum(m.values()))

    @property
    def fits(self):
        """Whether the memory of a device suffices."""
        room = sum(self.memory.values()) <= self.topology.chip.usable_bytes
        return room and all(cost.fits is not False for cost in self.costs)

    @property
    def flops(self):
        """Operations of a batch that the plain program has."""
        return sum(cost.turns * cost.useful for cost in self.costs)

    @property
    def seconds(self):
        """The roofline of a batch."""
        return sum(cost.turns * cost.roofline(self.topology) for cost in self.costs)

    @property
    def assumed_seconds(self):
        """Of a batch at the utilisation."""
        peak = self.topology.size * self.topology.chip.bf16_flops
        return max(self.seconds, self.flops / (self.utilization * peak))

    @property
    def days(self):
        """Of all images, at the utilisation."""
        return self.images / self.batch_size * self.assumed_seconds / DAY

    def values(self):
        """All of it, as JSON values."""
        chip = self.topology.chip
        return {
            "doing": self.doing,
            "topology": str(self.topology),
            "devices": self.topology.size,
            "device": chip.kind,
            "mesh": {"data": self.topology.size // self.fsdp, "fsdp": self.fsdp},
            "batch_size": self.batch_size,
            "images": self.images,
            **self.about,
            "form": self.form,
            "programs": [dataclasses.asdict(cost) for cost in self.costs],
            "memory": self.memory,
            "usable_memory": chip.usable_bytes,
            "fits": self.fits,
            "flops": self.flops,
            "roofline_s": self.seconds,
            "utilization": self.utilization,
            "seconds": self.assumed_seconds,
            "images_per_s": self.batch_size / self.assumed_seconds,
            "most_images_per_s": self.batch_size / self.seconds,
            "days": self.days,
            "chip_hours": self.days * 24 * self.topology.chips,
            "hosts": self.topology.hosts,
            "room": {what: {"count": n, "bytes": size} for what, (n, size) in self.room.items()},
            "notes": list(self.notes),
        }


def network_seconds(collectives, topology):
    """Seconds that sending takes at least, over the fast network and the slow one.

    A group that is larger than a slice or host spans h of them. What they exchange goes within each
    first; then each of the m devices that a group has in one of them sends (h - 1) / (h m) of the
    array to the others, and of a sum twice that. Smaller groups are taken to be within one, which
    those of `data` need not be: the bound is then lower.
    """
    chip = topology.chip
    fast = sum(each.sent for each in collectives)
    slow = 0.0
    for each in collectives:
        spanned = -(-each.group // topology.fast)
        times = 2 if each.kind == "all-reduce" else 1
        slow += times * (spanned - 1) / spanned * each.bytes / (each.group / spanned)
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
        lines.append(f"{cost.name[0].upper()}{cost.name[1:]}{times}; of one device:")
        lines.append(f"  {'':<32}{'TFLOP':>10}{'GB':>10}{'ms at least':>14}")
        for kind in {**cost.flops, **cost.traffic}:
            flops = cost.flops.get(kind, 0) / report.topology.size / 1e12
            moved = f"{cost.traffic.get(kind, 0) / 1e9:.3f}" if cost.traffic else "?"
            bound = 1e3 * cost.seconds.get(kind, 0)
            lines.append(f"  {kind:<32}{flops:>10.4g}{moved:>10}{bound:>14.3f}")
        for each in cost.collectives:
            name = f"{each.count} {each.kind} of {each.dtype} by {each.group}"
            bound = 1e3 * network_seconds([each], report.topology)
            lines.append(f"  {name:<42}{each.bytes / 1e9:>10.3f}{bound:>14.3f}")
    return lines


def _time(report):
    values = report.values()
    return [
        f"Roofline: {report.seconds:.4g} s a batch, a lower bound: at most "
        f"{values['most_images_per_s']:,.1f} images/s.",
        f"At a utilisation of {report.utilization:g}: {report.assumed_seconds:.4g} s a batch, "
        f"{values['images_per_s']:,.1f} images/s; {report.images:,} images take "
        f"{_duration(report.days)}, {values['chip_hours']:,.3g} chip-hours.",
        *_data(report, values),
        *_room(report),
    ]


def _duration(days):
    return f"{days:,.3g} days" if days >= 1 else f"{24 * days:,.3g} hours"


def _data(report, values):
    if report.doing != "training":
        return []
    hosts = values["hosts"]
    each = f"{hosts} hosts read, each" if hosts > 1 else "The host reads"
    rates = (values[name] / hosts for name in ("images_per_s", "most_images_per_s"))
    return ["{} {:,.0f} images/s, at most {:,.0f}.".format(each, *rates)]


def _room(report):
    if not report.room:
        return []
    parts = [f"{n:,} {what} of {_bytes(size)}" for what, (n, size) in report.room.items()]
    total = sum(n * size for n, size in report.room.values())
    return [f"Room for {', '.join(parts)}: {_bytes(total)}."]


def _bytes(size):
    unit, name = next(pair for pair in UNITS if size >= pair[0] or pair[0] == 1)
    return f"{size / unit:,.3g} {name}"
