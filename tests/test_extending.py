"""docs/extending.md: kinds that are added without a change in the package, executed as written."""

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """A folder in which the page's program was run."""
    folder = tmp_path_factory.mktemp("extending")
    *module, use = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S
    )
    (folder / "mine.py").write_text("\n".join(module))
    save = '\nimport numpy\nnumpy.save("images.npy", samples.images)\n'
    (folder / "use.py").write_text(use + save)
    command = [sys.executable, "use.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_spots_are_where_the_condition_says(spots):
    """Pose (.5, -.5) of [-1, 1] is row 6 and column 2 of 8."""
    images = np.load(spots / "images.npy")[..., 0].astype(float)
    places = np.arange(8) + 0.5
    weights = images / images.sum((1, 2), keepdims=True)
    rows = (weights.sum(2) * places).sum(1)
    columns = (weights.sum(1) * places).sum(1)
    assert abs(np.median(rows) - 6) < 1
    assert abs(np.median(columns) - 2) < 1


def test_a_run_of_such_kinds_is_opened_only_with_their_module(spots):
    program = 'import jaxdiff; jaxdiff.load("runs/spots")'
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=spots, capture_output=True, text=True, timeout=60
    )
    assert "--import mine" in ended.stderr
