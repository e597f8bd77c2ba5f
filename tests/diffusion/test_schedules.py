import pytest

from jaxdiff.diffusion.respacing import respace


def test_no_spec_keeps_all():
    assert respace(7, "") == list(range(7))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("1001", "1000 of the 1000 timesteps and 1001"),
        ("600,10", "part 1 of 2 has 500"),
        ("ddim999", "no whole stride"),
        ("ddim", "no whole stride"),
        ("fast", "cannot be read"),
        ("10,,5", "cannot be read"),
        ("0", "cannot be read"),
        ("-3", "cannot be read"),
    ],
)
def test_impossible_specs_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        respace(1000, spec)
