"""The package as it is installed, without the clone."""

import os
import subprocess
import sys

import pytest

from tests import tiny
from tests.conftest import ROOT

PROGRAM = "import sys; sys.argv[0] = 'jaxdiff'; from jaxdiff.commands import main; main()"


@pytest.mark.slow  # pip fetches the build's requirements
def test_a_wheel_trains_the_digits_in_an_empty_folder(tmp_path):
    place, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    install = ["-m", "pip", "install", "-q", "--no-deps", "--target", place, ROOT]
    subprocess.run([sys.executable, *map(str, install)], check=True, timeout=300)
    assert (place / "jaxdiff" / "py.typed").exists()
    flags = ["train", "--config", "digits", "--workdir", "run", *tiny.flags(training__num_steps=2)]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(place), "JAXDIFF_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Trained to step 2" in ended.stdout
