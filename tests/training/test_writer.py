import csv
import threading

import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.training.writer import Writer
from tests.disk import small_files
from tests.training import events

COLUMNS = ("loss", "norm")


@pytest.fixture
def run(tmp_path):
    return Run(epath.Path(tmp_path))


def rows(run):
    with open(run.metrics, newline="") as file:
        return list(csv.DictReader(file))


def write(writer, scalars):
    for step in range(6, 100):
        if scalars.keys() <= {*COLUMNS}:
            writer.write_metrics(step, scalars)
        else:
            writer.write_scalars(step, scalars)
    writer.flush()


def test_what_is_written_is_there_after_a_flush(run):
    writer = Writer(run, COLUMNS, 7)
    writer.write_metrics(8, {"norm": np.float32(2), "loss": 0.5})
    writer.write_images(9, {"samples": np.zeros((4, 4, 3), np.uint8)})
    writer.write_scalars(9, {"fd": 3.0})  # no column of the table
    writer.write_metrics(10, {"loss": np.float32(0.1), "norm": 2**40})
    writer.flush()
    expected = {
        "loss": {8: 0.5, 10: np.float32(0.1)},
        "norm": {8: 2.0, 10: 2.0**40},
        "samples": {9: 0.0},
        "fd": {9: 3.0},
    }
    assert events.read(run.tensorboard) == expected
    written = [
        {"step": "8", "loss": "0.5", "norm": "2"},
        {"step": "10", "loss": "0.100000001", "norm": "1099511627776"},
    ]
    assert rows(run) == written
    writer.close()
    assert events.read(run.tensorboard) == expected
    assert rows(run) == written


def test_only_later_steps_are_dropped_at_a_start(run):
    for steps_done in (0, 5):
        writer = Writer(run, COLUMNS, steps_done)
        for step in (steps_done + 5, steps_done + 10):
            writer.write_metrics(step, {"loss": step + steps_done / 10})
        writer.close()
    assert events.read(run.tensorboard) == {"loss": {5: 5.0, 10: 10.5, 15: 15.5}}
    assert [row["loss"] for row in rows(run)] == ["5", "10.5", "15.5"]


def test_a_table_that_was_cut_off_or_has_other_columns_is_continued(run):
    run.metrics.write_text("step,old,loss\n5,1,2\n10,3,4\n12,5")
    writer = Writer(run, COLUMNS, 12)
    writer.write_metrics(15, {"loss": 6.0})
    writer.close()
    assert run.metrics.read_text() == "step,old,loss,norm\n5,1,2,\n10,3,4,\n15,,6,\n"
    run.metrics.write_text("step,loss\n5,1\nx,2\n")
    with pytest.raises(UserError, match=r"Line 3 of .*metrics.csv is not a row"):
        Writer(run, COLUMNS, 20)
    assert run.metrics.read_text() == "step,loss\n5,1\nx,2\n"


@pytest.mark.parametrize("what", ["tensorboard", "metrics.csv"])
def test_a_full_disk_is_raised_by_the_next_call_and_keeps_nobody_waiting(run, what, monkeypatch):
    threads = threading.active_count()
    writer = Writer(run, COLUMNS, 0)
    writer.write_metrics(5, {"loss": 0.5})
    writer.flush()
    if what == "metrics.csv":
        monkeypatch.setattr(writer._events, "add", lambda events: None)
    many = {"loss": 0.5, **{f"loss_q{n}": 0.25 for n in range(100)}}
    few = {"loss": 0.5, "norm": 1.0}
    size, scalars = (30, few) if what == "metrics.csv" else (1000, many)
    refused = pytest.raises(UserError, match=rf"{what} cannot be written \(File")
    with small_files(size), refused:
        write(writer, scalars)
    # Whoever asks again whether all is written hears the same, and what there was is whole.
    with pytest.raises(files.WriteError, match=what):
        writer.flush()
    writer.close()
    assert threading.active_count() == threads
    assert events.read(run.tensorboard)["loss"][5] == 0.5
    Writer(run, COLUMNS, 5).close()
    assert rows(run) == [{"step": "5", "loss": "0.5", "norm": ""}]


def test_what_nobody_asked_about_is_raised_at_the_end(run, monkeypatch):
    def refused(events):
        raise files.WriteError(run.tensorboard, "No space left on device")

    writer = Writer(run, COLUMNS, 0)
    monkeypatch.setattr(writer._events, "add", refused)
    writer.write_scalars(5, {"loss": 0.5})
    with pytest.raises(UserError, match="No space left"):
        writer.close()


def test_the_loop_does_not_wait_for_the_disk(run, monkeypatch):
    """Writing is done in another thread, in order."""
    writer, go, written = Writer(run, COLUMNS, 0), threading.Event(), []

    def slow(events):
        assert go.wait(60)
        written.append((threading.current_thread().name, events[0].step))

    monkeypatch.setattr(writer._events, "add", slow)
    for step in range(3):
        writer.write_scalars(step, {"loss": 1.0})
    assert written == []
    go.set()
    writer.close()
    assert [step for _, step in written] == [0, 1, 2]
    assert {name for name, _ in written}.isdisjoint({threading.main_thread().name})
