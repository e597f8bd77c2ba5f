"""Whether folders of pictures are classes or splits, and what is said of the rest."""

import pytest
from etils import epath

from jaxdiff.data import layout
from jaxdiff.errors import UserError


def read(root, files, flag=None):
    """({split: [class]}, what is said to be left out)."""
    for name in files.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    found, notes = layout.find(epath.Path(root))
    splits, more = layout.splits(root, found, flag)
    named = {split: sorted({p.folder for p in pictures}) for split, pictures in splits.items()}
    assert sum(map(len, splits.values())) == len({p.path for ps in splits.values() for p in ps})
    return named, " ".join([*notes, *more])


AB = ["a", "b"]


@pytest.mark.parametrize(
    ("files", "flag", "splits"),
    [
        # All folders have names of splits.
        ("train/a/1.png train/b/1.png valid/a/1.png", None, {"train": AB, "valid": ["a"]}),
        ("Train/a/1.png TEST/b/1.png", None, {"train": ["a"], "test": ["b"]}),
        ("training/a/1.png train/b/1.png testing/b/1.png", None, {"train": AB, "test": ["b"]}),
        ("train/a/1.png test/a/1.png notes/x.txt", None, {"train": ["a"], "test": ["a"]}),
        ("x/train/a/1.png x/test/b/1.png __MACOSX/x/1.png", None, {"train": ["a"], "test": ["b"]}),
        ("train/1.png test/2.png", None, {"train": [""], "test": [""]}),
        # Not all.
        ("train/1.png bus/1.png car/1.png", None, {"train": ["bus", "car", "train"]}),
        ("train/a/1.png bus/2.png", None, {"train": ["bus", "train"]}),
        ("a/1.png b/x/1.png", None, {"train": AB}),
        ("a/1.png __MACOSX/a/1.png", None, {"train": ["a"]}),
        ("1.png 2.png", None, {"train": [""]}),
        # A flag decides.
        ("train/1.png test/2.png", "classes", {"train": ["test", "train"]}),
        ("train/a/1.png bus/2.png", "splits", {"train": ["a"]}),
        ("animals/a/1.png animals/b/1.png", "classes", {"train": ["animals"]}),
    ],
)
def test_folders_are_splits_or_classes_by_their_names(tmp_path, files, flag, splits):
    assert read(tmp_path, files, flag)[0] == splits


@pytest.mark.parametrize(
    ("files", "flag", "words"),
    [
        ("animals/a/1.png animals/b/1.png", None, "--layout=classes"),
        ("a/1.png b/1.png", "splits", "--layout"),
        ("1.png a/2.png", None, r"1\.png beside"),
        ("train/1.png train/a/2.png test/a/1.png", None, r"1\.png beside"),
    ],
)
def test_what_makes_no_order_is_refused(tmp_path, files, flag, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, files, flag)


def test_what_is_left_out_is_counted(tmp_path):
    files = "a/1.png a/1.HEIC a/2.heic a/notes.txt .git/x .DS_Store __MACOSX/a/._1.png"
    named, said = read(tmp_path, files)
    assert named == {"train": ["a"]}
    for words in ("2 with .heic", "1 with .txt", "3 hidden"):
        assert words in said
    assert "more" in read(tmp_path / "x", "train/a/1.png more/1.png", "splits")[1]
