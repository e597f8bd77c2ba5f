import jax
import pytest

from jaxdiff.errors import UserError
from jaxdiff.plan import hardware


@pytest.mark.parametrize(
    ("text", "size", "fast"),
    [
        ("v5e:8x8", 64, 64),
        ("V5E:8x8*2", 128, 64),
        ("v5p:4x4x4", 64, 64),
        ("tpu7x:2x2x1", 8, 8),
        ("h100:1", 1, 1),
        ("h100:64", 64, 8),
        ("a100:8", 8, 8),
    ],
)
def test_topologies_by_name(text, size, fast):
    topology = hardware.parse_topology(text)
    assert (topology.size, topology.fast) == (size, fast)
    assert str(topology) == text.lower()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("v7:8x8", "v4, v5e, v5p"),
        ("v5e", "1x1, 2x2"),
        ("v5e:8x9", "4x8, 8x8"),
        ("v5p:8x8", "4x4x4"),
        ("v5e:8x8*0", "8x8"),
        ("v5e:8x8*x", "v5e"),
        ("h100:12", "1, 2, 4 or 8"),
        ("h100:8*2", "1, 2, 4 or 8"),
        ("h100:2x4", "1, 2, 4 or 8"),
        ("", "v5e:8x8"),
    ],
)
def test_other_topologies_are_refused_by_naming_those_that_there_are(text, named):
    with pytest.raises(UserError, match=named) as caught:
        hardware.parse_topology(text)
    assert str(caught.value).count(". ") == 0


def test_a_device_s_peak_is_found_by_jax_s_name_of_it():
    assert hardware.peak_flops("TPU v5 lite") == 197e12
    assert hardware.peak_flops("NVIDIA H100 80GB HBM3") == pytest.approx(989.4e12)
    assert hardware.peak_flops(jax.devices("cpu")[0].device_kind) is None


@pytest.mark.parametrize("name", hardware.CHIPS)
def test_data_sheets_are_self_consistent(name):
    chip = hardware.CHIPS[name]
    assert 0.9 < chip.usable_bytes / chip.hbm_bytes < 1
    # Of all of these, between 100 and 600 operations take as long as moving a byte.
    assert 100 < chip.bf16_flops / chip.hbm_bandwidth < 600
    assert chip.slow_bandwidth < chip.link_bandwidth < chip.hbm_bandwidth


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(hardware, "_installed", lambda package: False)
    for text in ("v5e:2x2", "h100:8"):
        with pytest.raises(UserError, match=r"jaxdiff\[plan\]"):
            hardware.parse_topology(text).devices()
