"""The studies' command lines: each says what it does at once, and what it lacks in a sentence."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = (
    "classifier_scales",
    "confirm",
    "digits.conditions",
    "digits.evaluation",
    "evaluation.conversions",
    "evaluation.damages",
    "evaluation.models",
    "evaluation.sample_size",
    "fashion.data",
    "guidance_table",
    "tables",
    "toy",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_takes_no_jax(name):
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('studies.{name}', run_name='__main__')\n"
        f"except SystemExit as error: assert not error.code\n"
        f"assert 'jax' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m studies.{name.removesuffix('.__main__')}" in done.stdout
