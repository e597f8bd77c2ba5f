import logging

import pytest

from jaxdiff.checkpoints import ema, posthoc_ema
from jaxdiff.checkpoints.run import resolve
from jaxdiff.errors import UserError
from tests.checkpoints.synthetic import make_run
from tests.disk import small_files


@pytest.fixture
def folder(tmp_path, alone, caplog):
    caplog.set_level(logging.CRITICAL, "absl")
    return make_run(tmp_path / "run", every=40).folder


def test_nothing_is_said_to_be_kept_that_is_not(folder):
    words = rf"{folder} cannot be written \(File too large\): make room, or give --out"
    with small_files(10_000), pytest.raises(UserError, match=words):
        ema.fill(folder, [0.05, 0.07], 400)
    assert not posthoc_ema.is_kept(posthoc_ema.plan(folder, (0.07,)), 0.07)
    assert ema.fill(folder, [0.05, 0.07], 400) == 1
    assert ema.fill(folder, [0.05, 0.07], 400) == 0


def test_an_export_that_the_disk_refuses_leaves_nothing(folder, tmp_path):
    out = tmp_path / "out"
    # Too little for the averages, and then for the config alone.
    for size in (10_000, 500):
        with small_files(size), pytest.raises(UserError, match=rf"{out} cannot be written \(File"):
            ema.export(folder, [0.07], 400, out)
        assert not out.exists()
    ema.export(folder, [0.07], 400, out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "snapshots"]
    assert resolve(f"{out}:ema=0.07").step == 400


def test_an_export_to_what_is_no_folder_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UserError, match=r"cannot be written \(Not a directory\): choose"):
            ema.export(folder, [0.07], 400, out)
    assert (tmp_path / "file").read_text() == "mine"
