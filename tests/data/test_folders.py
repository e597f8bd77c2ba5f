"""Folders of pictures that cannot all be read: no class is lost, and no picture uncounted."""

import os

import numpy as np
import pytest

from jaxdiff.errors import UserError
from tests.data.test_prepare import prepare_here, read, tell_apart
from tests.disk import with_mode

SETTINGS = {"image_size": 8, "channels": 1}


@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_class_that_may_not_be_read_is_not_left_out(tmp_path, mode):
    tell_apart(tmp_path / "in", ["a/1.png", "b/2.png", "c/x/3.png"])
    for name in ("a", "c/x"):
        with (
            with_mode(tmp_path / "in" / name, mode),
            pytest.raises(UserError, match=rf"in/{name}.* cannot be read \(Permission denied\)"),
        ):
            prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_a_class_whose_link_leads_nowhere_is_not_left_out(tmp_path):
    tell_apart(tmp_path / "in", ["a/1.png"])
    for target in ("gone", "001.b"):  # the latter to itself
        (tmp_path / "in" / "001.b").symlink_to(target)
        with pytest.raises(UserError, match=r"in/001\.b cannot be read \((No such|Too many)"):
            prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
        (tmp_path / "in" / "001.b").unlink()


def test_pictures_that_are_not_there_are_counted_as_skipped(tmp_path):
    values = tell_apart(tmp_path / "in", ["a/1.png", "b/2.png"])
    (tmp_path / "in" / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "in" / "a" / "pipe.png")  # to read it would take for ever
    report = prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    assert [(s.source, "No such file" in s.reason) for s in report.skipped] == [
        ("a/gone.png", True)
    ]
    _, rows = read(tmp_path / "out", "train", 2)
    np.testing.assert_array_equal(rows["image"][:, 0, 0, 0], list(values.values()))


def test_links_that_lead_back_are_not_followed(tmp_path):
    values = tell_apart(tmp_path / "in", ["a/1.png", "b/x/2.png"])
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b" / "x" / "up").symlink_to(tmp_path)
    # A class that is another's twin is one, and so are both of two links to one place.
    for name in ("c", "d"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in" / "a")
    prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    source, rows = read(tmp_path / "out", "train", 4)
    assert source.label_names == ("a", "b", "c", "d")
    one, two = values.values()
    assert rows["image"][:, 0, 0, 0].tolist() == [one, two, one, one]
    assert rows["label"].tolist() == [0, 1, 2, 3]
