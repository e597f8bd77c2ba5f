"""What the folders in a folder of pictures are: classes, or splits of them."""

import collections
import dataclasses
import os
import pathlib
import stat

from jaxdiff.data.pictures import endings
from jaxdiff.errors import UserError

LAYOUTS = ("classes", "splits")
# Folders that are splits, in small letters, and what the split is called. Training reads `train`,
# and a classifier is measured on `test` by default; others keep their names.
SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{name: name for name in ("valid", "val", "validation", "dev", "development")},
    **{name: name for name in ("eval", "evaluation")},
}
NEVER = "__MACOSX"  # what macOS puts beside the files of an archive


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file: its path below the folder, its size in bytes, and the class that it is in."""

    path: str
    size: int
    folder: str


@dataclasses.dataclass
class Folder:
    """What was found in a folder.

    Attributes:
      path: below the folder that was given, "" for that one.
      pictures: {name: size in bytes} of the files in it.
      folders: {name: Folder} of the folders in it that hold pictures, at any depth.
    """

    path: str
    pictures: dict[str, int] = dataclasses.field(default_factory=dict)
    folders: dict[str, "Folder"] = dataclasses.field(default_factory=dict)

    def inside(self):
        """{path below this folder: size} of all pictures."""
        found = dict(self.pictures)
        for name, folder in self.folders.items():
            found |= {f"{name}/{path}": size for path, size in folder.inside().items()}
        return found


@dataclasses.dataclass
class LeftOut:
    """What is not read: files by ending, hidden files and folders, folders without pictures."""

    endings: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    hidden: int = 0
    empty: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)

    def sentences(self):
        """A sentence for each of these that there is."""
        parts = [f"{count:,} with {ending}" for ending, count in self.endings.most_common()]
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden (names that begin with a dot, and {NEVER})")
        lines = [f"Left out, files: {', '.join(parts)}."] if parts else []
        for what, names in (
            ("Folders without pictures, which are no classes", self.empty),
            ("Left out, folders that are not called as a split", self.others),
        ):
            if names:
                lines.append(f"{what}: {some(sorted(names))}.")
        return tuple(lines)


def some(names, most=20):
    """Names as text, of which the first `most` are written out."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def find(root):
    """(Folder, LeftOut) of all that is in a folder, links followed.

    Raises:
      UserError: if a folder, or a link that may be to one, cannot be read, or nothing is a picture.
    """
    left = LeftOut()
    try:
        found = _find(root, "", left, ())
    except OSError as error:
        if os.path.abspath(error.filename or root) == os.path.abspath(root):
            raise UserError(
                f"The folder {root} cannot be read ({error.strerror}): give a folder of class "
                "folders."
            ) from None
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it "
            f"out of {root}."
        ) from None
    if not found.pictures and not found.folders:
        held = f"files that end in {some(sorted(left.endings))}" if left.endings else "no files"
        raise UserError(
            f"{root} holds {held}, and no pictures (such as .jpg, .png, .webp or .tif): give a "
            "folder of class folders."
        )
    return found, left


def _find(root, path, left, above):
    """The Folder at a path; a link to a folder that it is in, of `above`, has no end."""
    folder, here = Folder(path), os.path.realpath(os.path.join(root, path))
    if here in above:
        return folder
    with os.scandir(os.path.join(root, path)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            below = f"{path}/{entry.name}" if path else entry.name
            if entry.name.startswith(".") or entry.name == NEVER:
                left.hidden += 1
            elif entry.is_dir():
                inner = _find(root, below, left, (*above, here))
                if inner.pictures or inner.folders:
                    folder.folders[entry.name] = inner
                else:
                    left.empty.append(below)
            elif (size := _size(entry)) is None:
                left.endings[_ending(entry) or "no ending"] += 1
            else:
                folder.pictures[entry.name] = size
    return folder


def _ending(entry):
    return pathlib.PurePath(entry.name).suffix.lower()


def _size(entry):
    """Bytes of a picture; None for a file that is none."""
    is_picture = _ending(entry) in endings()
    try:
        status = entry.stat()
    except FileNotFoundError:
        if not is_picture:  # a link to nothing, and perhaps to what was a class folder
            raise
        return 0  # it is skipped, and counted, when it is to be read
    return status.st_size if is_picture and stat.S_ISREG(status.st_mode) else None


def splits(root, found, left, layout=None):
    """{split: its Picture list, sorted by class and name} of the pictures in a folder.

    The folders are splits where every folder that holds pictures is called as one (see SPLITS) and
    holds class folders; a lone folder above them is looked into. They are classes where none with
    class folders is called as a split. Where they might be both, `layout` decides.

    Args:
      root, found, left: the folder and what `find` found there; folders that are not read are
        added to `left`.
      layout: `classes`, `splits`, or None.

    Raises:
      UserError: where both are possible, or the folders make no such order.
    """
    top = _below_lone(found)
    if layout == "classes" or (layout is None and not _are_splits(root, found, top)):
        return {"train": _by_class(root, found)}
    named = {name: folder for name, folder in top.folders.items() if name.lower() in SPLITS}
    if not named:
        raise UserError(
            f"--layout is splits, and no folder with pictures in {_at(root, top)} is called as one "
            f"({', '.join(SPLITS)}): rename them, or leave --layout out."
        )
    for name, folder in top.folders.items():
        if name not in named:
            left.others.append(f"{folder.path} ({len(folder.inside()):,} pictures)")
    result, origin = {}, {}
    for name, folder in named.items():
        split = SPLITS[name.lower()]
        if split in origin:
            raise UserError(
                f"The folders {origin[split]} and {name} in {_at(root, top)} are both the split "
                f"{split}: put their pictures into one."
            )
        origin[split] = name
        result[split] = _by_class(root, folder)
    return result


def _at(root, folder):
    return os.path.join(root, folder.path) if folder.path else str(root)


def _named(folder):
    return [name for name in folder.folders if name.lower() in SPLITS]


def _below_lone(found):
    """The last folder, of lone ones in each other, that holds folders called as splits."""
    top = level = found
    while len(level.folders) == 1 and not level.pictures:
        (level,) = level.folders.values()
        if _named(level):
            top = level
    return top


def _are_splits(root, found, top):
    """Whether folders are splits; UserError where that cannot be known."""
    named, with_classes = _named(top), []
    for name in named:
        inner = top.folders[name]
        if inner.folders and not inner.pictures:
            with_classes.append(name)
    if len(named) == len(top.folders) and not top.pictures and named == with_classes and named:
        return True
    if named and (with_classes or len(named) == len(top.folders)):
        raise UserError(
            f"The folders in {_at(root, top)} might be splits ({some(named)}) or classes: add "
            "--layout=splits, which leaves out other folders, or --layout=classes."
        )
    if not named:
        _check_inner(root, found)
    return False


def _check_inner(root, found):
    """Refuses what would be classes if classes or splits were not in the folders below."""
    inner = {name for folder in found.folders.values() for name in folder.folders}
    if not inner or any(folder.pictures for folder in found.folders.values()):
        return
    if len(found.folders) == 1:
        (lone,) = found.folders
        raise UserError(
            f"{root} holds one folder, {lone}, in which there are {some(sorted(inner))}: if these "
            f"are the classes give {os.path.join(root, lone)}, and if {lone} is the one class add "
            "--layout=classes."
        )
    if inner <= {name for name in inner if name.lower() in SPLITS}:
        raise UserError(
            f"The folders in {root} hold folders that are called as splits, {some(sorted(inner))}: "
            "move these above the classes, or add --layout=classes, which makes one split of all."
        )


def _by_class(root, folder):
    """The pictures of a folder of class folders, sorted by class and name."""
    if folder.pictures and folder.folders:
        raise UserError(
            f"{_at(root, folder)} holds the picture {min(folder.pictures)} beside class folders: "
            "move it into one."
        )
    above = f"{folder.path}/" if folder.path else ""
    pictures = []
    for inside, size in folder.inside().items():
        name, separator, _ = inside.partition("/")
        pictures.append(Picture(above + inside, size, name if separator else ""))
    return sorted(pictures, key=lambda picture: (picture.folder, picture.path))
