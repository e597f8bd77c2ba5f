import threading

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.training.metrics_logging import Writer
from tests.disk import small_files
from tests.training import events


def test_what_is_written_is_there_at_once(tmp_path):
    writer = Writer(tmp_path / "tensorboard", 7)
    writer.write_scalars(8, {"loss": 0.5, "norm": np.float32(2)})
    writer.write_images(9, {"samples": np.zeros((4, 4, 3), np.uint8)})
    expected = {"loss": {8: 0.5}, "norm": {8: 2.0}, "samples": {9: 0.0}}
    assert events.read(tmp_path / "tensorboard") == expected
    writer.close()
    assert events.read(tmp_path / "tensorboard") == expected


def test_only_later_steps_are_dropped_at_a_start(tmp_path):
    for steps_done in (0, 5):
        writer = Writer(tmp_path, steps_done)
        for step in (steps_done + 5, steps_done + 10):
            writer.write_scalars(step, {"loss": step + steps_done / 10})
        writer.close()
    assert events.read(tmp_path) == {"loss": {5: 5.0, 10: 10.5, 15: 15.5}}


def test_a_full_disk_is_said_and_not_waited_for(tmp_path):
    writer, threads = Writer(tmp_path / "tensorboard", 0), threading.active_count()
    scalars = {"loss": 0.5, **{f"loss_q{n}": n for n in range(100)}}
    writer.write_scalars(5, {"loss": 0.5})
    with small_files(1000), pytest.raises(UserError, match=r"tensorboard cannot be written \(File"):
        writer.write_scalars(6, scalars)
    writer.close()
    assert threading.active_count() == threads
