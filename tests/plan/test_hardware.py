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


def test_without_a_compiler_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(hardware, "_installed", lambda package: False)
    for text in ("v5e:2x2", "h100:8"):
        with pytest.raises(UserError, match=r"jaxdiff\[plan\]"):
            hardware.parse_topology(text).devices()
