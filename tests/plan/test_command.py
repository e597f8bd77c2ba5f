import json

import pytest

from jaxdiff.errors import UserError
from jaxdiff.plan import cache, command, hardware, search
from jaxdiff.plan.report import text


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans the smallest config without a compiler, with further flags."""
    monkeypatch.setattr(hardware, "_installed", lambda package: False)
    file = tmp_path / "small.py"
    file.write_text(
        "from tests.aot import absent\n\n\ndef get_config():\n    return absent.config()\n"
    )

    def plan(flag, *flags):
        return command.reports(command.parser().parse_args([flag, str(file), *flags]))

    return plan


def test_without_a_compiler_the_plain_program_is_reported(planned):
    (one,) = planned("--config", "--topology", "v5e:2x2")
    (four,) = planned("--config", "--topology", "v5e:2x2", "--config.mesh.fsdp=4")
    assert "jaxdiff[plan]" in text(one)
    assert one.flops == four.flops > 0
    assert one.memory["optimizer"] == pytest.approx(2 * one.memory["parameters"], rel=0.01)
    # Small arrays are not split.
    assert 0.25 <= four.memory["parameters"] / one.memory["parameters"] < 0.5
    assert json.dumps(one.values())


def test_remat_keeps_less_and_computes_more(planned):
    (kept,) = planned("--config", "--topology", "h100:1")
    (again,) = planned("--config", "--topology", "h100:1", "--config.training.remat=true")
    assert again.memory["activations"] < kept.memory["activations"] / 2
    assert again.flops == kept.flops
    # A second forward pass, of what is in blocks: at most a third more.
    assert 1.1 * kept.seconds < again.seconds < 4 / 3 * kept.seconds


def test_a_search_finds_what_fits_by_cutting_and_splitting(planned):
    found = planned(
        "--config", "--topology", "v5e:2x2", "--search", "--config.training.batch_size=4"
    )
    assert {report.fsdp for report in found} == {1, 2, 4}
    assert {report.about["remat"] for report in found} == {False, True}
    assert found[0].seconds == min(report.seconds for report in found)
    assert "images/s" in search.table(found)


def test_sampling_counts_each_network_at_each_step(planned):
    flags = ("--topology", "v5e:2x2", "--batch_size", "8", "--steps")
    (alone,), (longer,) = planned("--model", *flags, "2"), planned("--model", *flags, "4")
    # Heun evaluates twice at every step but the last: 3 and 7 evaluations.
    assert longer.flops / alone.flops == pytest.approx(7 / 3, rel=0.01)
    (guided,) = planned("--model", *flags, "4", "--cfg", "2")
    assert guided.flops / longer.flops == pytest.approx(2, rel=0.01)
    # Images of 16 x 16 in colour, in shards and merged.
    assert set(alone.room.values()) == {(50_000, 16 * 16 * 3)}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--topology", "v5e:2x2", "--config.mesh.fsdp=3"), "fsdp 3 does not divide the 4"),
        (("--topology", "v5e:8x8"), "32 .* multiple of 64"),
        (("--topology", "v5e:9x9"), "8x16, 16x16"),
        ((), "--topology is missing"),
    ],
)
def test_what_cannot_be_planned_is_refused(planned, flags, named):
    with pytest.raises(UserError, match=named):
        planned("--config", *flags)


def test_a_batch_of_samples_is_divided_by_the_devices(planned):
    with pytest.raises(UserError, match=r"--batch_size 6 .* multiple of 4"):
        planned("--model", "--topology", "v5e:2x2", "--batch_size", "6")
    with pytest.raises(UserError, match="--config FILE .* or --model"):
        command.reports(command.parser().parse_args(["--topology", "v5e:2x2"]))


class Program:
    """What the cache asks of one; counts how often it is compiled."""

    name, compilations = "a program", 0

    def __init__(self, source):
        self.source = source

    def lower(self):
        return self

    def as_text(self):
        return self.source


def test_answers_are_kept_by_program_and_topology(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hardware.Topology, "compiler", lambda self: {"jax": "1"})
    compiled = []
    monkeypatch.setattr(
        cache, "_compile", lambda *_: compiled.append(1) or {"compile_s": len(compiled)}
    )
    here, there = map(hardware.parse_topology, ("v5e:2x2", "v5e:2x4"))
    answers = [
        cache.compiled(Program("a"), here)["compile_s"],
        cache.compiled(Program("a"), here)["compile_s"],
        cache.compiled(Program("a"), there)["compile_s"],
        cache.compiled(Program("b"), here)["compile_s"],
        cache.compiled(Program("a"), here, use_cache=False)["compile_s"],
    ]
    assert answers == [1, 1, 2, 3, 4]
    for path in cache.folder().iterdir():
        path.write_bytes(b"torn")
    assert cache.compiled(Program("a"), here)["compile_s"] == 5


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ("RESOURCE_EXHAUSTED: ... temporaries (512.00G) exceeds available HBM (30.75G)", 512 << 30),
        ("RESOURCE_EXHAUSTED: Ran out of memory. Used 17.5G of 15.75G hbm", 17.5 * 2**30),
        ("RESOURCE_EXHAUSTED: something else", 0),
        ("INTERNAL: something else", None),
    ],
)
def test_what_a_program_needs_is_read_from_the_refusal(message, size):
    assert cache._needed(message) == size
