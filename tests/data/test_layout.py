"""Whether folders of pictures are classes or splits, and what is said of the rest."""

import pytest

from jaxdiff.data import layout
from jaxdiff.errors import UserError


def read(root, files, flag=None):
    """({split: [class]}, what is said to be left out); a path that ends in / is a folder."""
    for name in files.split():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    found, left = layout.find(root)
    splits = layout.splits(root, found, left, flag)
    named = {split: sorted({p.folder for p in pictures}) for split, pictures in splits.items()}
    assert sum(map(len, splits.values())) == len({p.path for ps in splits.values() for p in ps})
    return named, " ".join(left.sentences())


AB = ["a", "b"]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (
            "train/a/1.png train/b/1.png valid/a/1.png valid/b/1.png test/a/1.png test/b/1.png",
            {"train": AB, "valid": AB, "test": AB},
        ),
        ("Train/a/1.png Train/b/1.png TEST/a/1.png", {"train": AB, "test": ["a"]}),
        ("training/a/1.png testing/b/1.png", {"train": ["a"], "test": ["b"]}),
        ("train/a/1.png dev/a/1.png Eval/b/1.png", {"train": ["a"], "dev": ["a"], "eval": ["b"]}),
        (
            "train/a/1.png test/a/1.png __MACOSX/a/1.png notes/x.txt",
            {"train": ["a"], "test": ["a"]},
        ),
        ("zip/data/train/a/1.png zip/data/test/a/1.png zip/x.txt", {"train": ["a"], "test": ["a"]}),
        ("zip/train/a/1.png zip/train/b/1.png", {"train": AB}),
        ("train/a/1.png test/a/1.png valid/", {"train": ["a"], "test": ["a"]}),
        ("train/1.png bus/1.png car/1.png", {"train": ["bus", "car", "train"]}),
        ("train/1.png train/old/2.png bus/1.png", {"train": ["bus", "train"]}),
        ("a/1.png b/x/1.png", {"train": AB}),
        ("a/1.png", {"train": ["a"]}),
        ("1.png 2.png", {"train": [""]}),
    ],
)
def test_what_is_plain_is_read(tmp_path, files, splits):
    assert read(tmp_path, files)[0] == splits


@pytest.mark.parametrize(
    ("files", "as_classes", "as_splits"),
    [
        ("train/1.png test/2.png", ["test", "train"], {"train": [""], "test": [""]}),
        ("train/1.png", ["train"], {"train": [""]}),
        ("train/a/1.png bus/2.png", ["bus", "train"], {"train": ["a"]}),
        ("x/train/a/1.png x/test/a/1.png x/more/1.png", ["x"], {"train": ["a"], "test": ["a"]}),
        ("animals/a/1.png animals/b/1.png", ["animals"], None),
        ("a/train/1.png a/test/2.png b/train/1.png", AB, None),
    ],
)
def test_where_both_are_possible_a_flag_decides(tmp_path, files, as_classes, as_splits):
    with pytest.raises(UserError, match="--layout=classes"):
        read(tmp_path, files)
    assert read(tmp_path, files, "classes")[0] == {"train": as_classes}
    if as_splits is not None:
        assert read(tmp_path, files, "splits")[0] == as_splits


@pytest.mark.parametrize(
    ("files", "flag", "words"),
    [
        ("train/a/1.png Train/a/1.png", None, "Train and train"),
        ("train/a/1.png training/a/1.png", None, "train and training"),
        ("a/1.png b/1.png", "splits", "--layout is splits"),
        ("1.png a/2.png", None, r"picture 1\.png beside"),
        ("train/1.png train/a/2.png test/a/1.png", "splits", r"picture 1\.png beside"),
    ],
)
def test_what_makes_no_order_is_refused(tmp_path, files, flag, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, files, flag)


def test_what_is_left_out_is_counted(tmp_path):
    files = "a/1.png a/1.HEIC a/2.heic a/notes.txt b/ .git/x .DS_Store __MACOSX/a/._1.png"
    assert read(tmp_path, files)[0] == {"train": ["a"]}
    said = read(tmp_path, files)[1]
    for words in ("2 with .heic", "1 with .txt", "3 hidden", "no classes: b."):
        assert words in said
    assert "more (1 pictures)" in read(tmp_path / "x", "train/a/1.png more/1.png", "splits")[1]
