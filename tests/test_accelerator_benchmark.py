import json
import sys
from subprocess import run

import pytest

from tests.conftest import ROOT


@pytest.mark.slow  # six programs are compiled
def test_the_benchmark_of_an_accelerator_measures_every_row_on_a_cpu(tmp_path):
    file = tmp_path / "found.json"
    flags = ["--small", "--minutes", "8", "--steps", "2", "--json", str(file)]
    run([sys.executable, "benchmarks/accelerator.py", *flags], cwd=ROOT, check=True)
    found = json.loads(file.read_text())
    assert found["not_measured"] == []
    assert len(found["rows"]) == 6
    for row in found["rows"]:
        assert "error" not in row, row
        assert row["flops"] > 0
        assert row["images_per_s"] == pytest.approx(row["batch_size"] / row["seconds"])
    by_name = {row["name"]: row for row in found["rows"]}
    with_and_without = (by_name["training, batch 64"], by_name["training, batch 64, remat"])
    assert with_and_without[0]["flops"] == with_and_without[1]["flops"]


def test_what_is_left_when_the_time_is_over_is_named(tmp_path):
    file = tmp_path / "found.json"
    flags = ["--small", "--minutes", "0.1", "--json", str(file)]
    result = run(
        [sys.executable, "benchmarks/accelerator.py", *flags],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(json.loads(file.read_text())["not_measured"]) == 6
    assert "Not measured: training, batch 256, remat;" in result.stdout
