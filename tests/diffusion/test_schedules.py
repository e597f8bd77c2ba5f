import json

import numpy as np
import pytest

from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.respacing import respace
from jaxdiff.errors import UserError


def test_betas_equal_the_reference(goldens):
    with np.load(goldens / "schedules.npz") as stored:
        assert len(stored) >= 4
        for name, expected in stored.items():
            _, schedule, count = name.split("/")
            betas = getattr(schedules, schedule)(int(count))
            np.testing.assert_allclose(betas, expected, rtol=0, atol=1e-12)


def test_respacing_equals_the_reference(goldens):
    stored = json.loads((goldens / "respacing.json").read_text())
    assert len(stored) >= 9
    for name, expected in stored.items():
        count, _, spec = name.partition("/")
        assert respace(int(count), spec) == expected, name


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
    with pytest.raises(UserError, match=words):
        respace(1000, spec)
