"""The package in Python: what `import jaxdiff` costs and names, and its pages' examples."""

import json
import pydoc
import re
import subprocess
import sys

import numpy as np
import pytest

import jaxdiff
from tests import tiny
from tests.conftest import ROOT
from tests.runs import make_run


def test_importing_it_is_quick_and_imports_no_jax():
    code = (
        "import sys, time; begun = time.process_time(); import jaxdiff; dir(jaxdiff);"
        "spent = time.process_time() - begun; assert 'jax' not in sys.modules;"
        "jaxdiff.CFG(2); assert 'jax' not in sys.modules; print(spent)"
    )
    ends = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ends.returncode == 0, ends.stderr
    assert float(ends.stdout) < 0.2


def test_help_says_what_there_is_and_all_of_it_is_there():
    text = pydoc.render_doc(jaxdiff)
    for name in set(dir(jaxdiff)) - {"annotations"}:
        if name in jaxdiff._MODULES:
            assert getattr(jaxdiff, name) is not None
            assert re.search(rf"\b{name}\b", text), name
    with pytest.raises(AttributeError):
        jaxdiff.lod  # noqa: B018


def test_the_examples_of_the_page_run(alone, tmp_path, monkeypatch):
    make_run(tmp_path / "runs" / "digits", tiny.config(), steps=(500, 1500))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 7
    names = {}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"docs/python.md, example {number}", "exec"), names)
    assert names["samples"].settings["network_evaluations_per_sample"]["model"] > 9
    assert names["found"]["recall"].reference_images == 12
    assert names["untrained"].sample(2, cond={"vector": [0, 0, 0, 1]}).images.dtype == np.uint8


def test_the_notebook_runs(alone, tmp_path, monkeypatch):
    """With a smaller network, fewer steps and fewer samples than it has."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    shorter = {
        "STEPS = 500": "STEPS = 20",
        "GUIDE = 100": "GUIDE = 10",
        "N = 40": "N = 5",
        "jaxdiff.Heun(": "jaxdiff.DPMpp(",
        "from configs import digits": "from tests import tiny",
        "digits.get_config()": "tiny.config()",
    }
    for long, short in shorter.items():
        assert sum(cell.count(long) for cell in cells) == 1
        cells = [cell.replace(long, short) for cell in cells]
    names = {}
    for number, cell in enumerate(cells, 1):
        exec(compile(cell, f"docs/quickstart.ipynb, cell {number}", "exec"), names)
    grids = [value for value in names.values() if isinstance(value, jaxdiff.Samples)]
    assert len(grids) >= 4
