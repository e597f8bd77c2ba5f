import pytest

from jaxdiff.evaluation import guidance
from tests import tiny
from tests.sampling.test_job import make_run

pytestmark = pytest.mark.usefixtures("alone")


def test_a_table_has_a_row_for_each_method_and_is_not_made_twice(tmp_path):
    model = make_run(tmp_path / "run", tiny.config())
    methods = {"no guidance": {}, "CFG, w 2": {"cfg": 2.0}}
    arguments = (model, methods, tmp_path / "out", 20, "ddim", "2")
    table = guidance.measure(*arguments)
    assert [row[0] for row in table] == list(methods)
    assert [row[4] for row in table] == ["2 model", "4 model"]
    for row in table:
        assert len(row) == len(guidance.COLUMNS)
        assert 0 <= row[1] <= 1
        assert min(row[2], row[3], row[5]) > 0
    files = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    times = [path.stat().st_mtime_ns for path in files]
    assert guidance.measure(*arguments) == table
    assert [path.stat().st_mtime_ns for path in files] == times
    guidance.draw(table, tmp_path / "out", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_every_row_asked_for_is_there():
    rows = guidance.rows("runs/digits@250", "runs/digits_small@150", "runs/classifier")
    assert len(rows) == 11
    assert {name for fields in rows.values() for name in fields} == {
        "cfg",
        "interval",
        "schedule",
        "cads",
        "apg",
        "guide",
        "weight",
        "classifier",
        "classifier_scale",
    }
