import dataclasses
import json

import pytest

from jaxdiff.plan import report
from jaxdiff.plan.hardware import parse_topology
from jaxdiff.plan.kinds import Collective
from jaxdiff.plan.report import Cost, Report

GIB = 2**30


def cost(**fields):
    given = {"name": "a step", "turns": 1, "form": "compiled", "memory": {"parameters": GIB}}
    return Cost(**{**given, **fields})


def plan(*costs, topology="v5e:2x2", **fields):
    given = {"doing": "training", "fsdp": 1, "batch_size": 8, "images": 800, "utilization": 0.5}
    given["topology"] = parse_topology(topology)
    return Report(costs=costs, **{**given, **fields})


def test_steps_count_as_often_as_they_are_taken():
    made = plan(cost(turns=3, seconds={"a": 0.25, "b": 0.5}), cost(seconds={"a": 1.0}))
    assert made.seconds == pytest.approx(3 * 0.75 + 1)
    assert made.values()["most_images_per_s"] == pytest.approx(8 / 3.25)


def test_utilisation_is_of_the_plain_program_on_all_chips_and_bounded_by_the_roofline():
    peak = 4 * 197e12
    slow = plan(cost(useful=peak, flops={"a": 2 * peak}, seconds={"a": 0.1}))
    assert slow.assumed_seconds == pytest.approx(2)
    assert slow.days == pytest.approx(100 * 2 / 86400)
    assert slow.values()["chip_hours"] == pytest.approx(100 * 2 / 3600 * 4)
    assert plan(cost(useful=peak, seconds={"a": 5.0})).assumed_seconds == 5


def test_memory_is_that_of_the_program_that_takes_most():
    made = plan(cost(), cost(memory={"parameters": GIB, "temporaries": 15 * GIB}))
    assert made.memory["temporaries"] == 15 * GIB
    assert not made.fits
    assert plan(cost(memory={"parameters": 15 * GIB})).fits
    assert not plan(cost(fits=False)).fits


def test_sums_between_hosts_take_the_slow_network():
    chip = parse_topology("h100:16").chip
    one = Collective(kind="all-reduce", dtype="f32", group=16, count=1, bytes=16 * 10**9)
    inside = report.network_seconds([dataclasses.replace(one, group=8)], parse_topology("h100:8"))
    assert inside == pytest.approx(2 * 7 / 8 * 16e9 / chip.link_bandwidth)
    # A group that fits into one of two hosts is taken to be in one.
    within = report.network_seconds([dataclasses.replace(one, group=8)], parse_topology("h100:16"))
    assert within == inside
    # Of two hosts of eight each device sends an eighth of the array once.
    across = report.network_seconds([one], parse_topology("h100:16"))
    assert across == pytest.approx(max(2 * 15 / 16 * 16e9 / 450e9, 16e9 / 8 / 50e9))


def test_what_waits_for_the_network_takes_its_time():
    sent = Collective(kind="all-gather", dtype="bf16", group=4, count=1, bytes=4 * 200 * 10**9)
    made = plan(cost(seconds={"a": 0.1}, collectives=(sent,)))
    assert made.seconds == pytest.approx(3 * 200e9 / 200e9)


def test_the_report_is_json_and_text():
    sent = Collective(kind="all-reduce", dtype="f32", group=4, count=2, bytes=10**6)
    made = plan(cost(flops={"attention": 1e12}, seconds={"attention": 0.01}, collectives=(sent,)))
    assert json.loads(json.dumps(made.values()))["programs"][0]["flops"] == {"attention": 1e12}
    text = report.text(made)
    assert "v5e:2x2" in text
    assert "attention" in text
    assert "2 all-reduce of f32 by 4" in text


def test_the_least_certain_program_names_the_plan_s_form():
    assert plan(cost(), cost(form="quick")).form == "quick"
    assert plan(cost(form="quick"), cost(form="plain")).form == "plain"


def test_what_a_host_reads_and_what_is_written_are_said():
    room = {"checkpoints": (4, 5 * 10**9), "snapshots": (10, 10**9)}
    made = plan(cost(useful=1, seconds={"a": 2.0}), topology="v5e:4x4", room=room)
    assert made.values()["hosts"] == 4
    assert "4 hosts read, each 1 images/s, at most 1." in report.text(made)
    assert "4 checkpoints of 5 GB, 10 snapshots of 1 GB: 30 GB." in report.text(made)


@pytest.mark.parametrize(
    ("topology", "hosts"), [("v5e:2x2", 1), ("v5e:2x4", 1), ("v5e:8x8*2", 32), ("h100:16", 2)]
)
def test_hosts_are_counted(topology, hosts):
    assert parse_topology(topology).hosts == hosts
