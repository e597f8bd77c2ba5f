"""What the folders in a folder of pictures are: classes, or splits that hold classes."""

import collections
import dataclasses
import os

from jaxdiff import files
from jaxdiff.data.pictures import endings
from jaxdiff.errors import UserError

# Folders that are splits, in small letters, and what the split is called: training reads `train`,
# and a classifier is measured on `test` by default.
SPLITS = {
    **{"training": "train", "testing": "test"},
    **{name: name for name in ("train", "test", "valid", "val", "validation", "dev", "eval")},
    **{name: name for name in ("development", "evaluation")},
}
ARCHIVE = "__MACOSX"  # what macOS adds beside the files of an archive
MOST = 20  # names that are written out in a message


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file: its path below the folder, its size in bytes, and the class that it is in."""

    path: str
    size: int
    folder: str


def some(names, most=MOST):
    """Names as text, of which the first `most` are written out."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def find(root):
    """({path below a folder: size} of the pictures in it, sentences on what is left out).

    Raises:
      UserError: if a folder or a link in it cannot be read, or nothing is a picture.
    """
    pictures, others, hidden = {}, collections.Counter(), 0
    if not files.is_folder(root):
        raise UserError(f"{root} is no folder: give one of pictures, or of class folders.")
    for path, size in files.walk(root).items():
        ending = os.path.splitext(path)[1].lower()
        if any(part.startswith(".") or part == ARCHIVE for part in path.split("/")):
            hidden += 1
        elif ending in endings():
            pictures[path] = size or 0  # of a link to nothing, which is skipped when it is read
        elif size is None:
            raise UserError(
                f"{root / path} is a link without a target, which may have been a class: "
                "repair or remove it."
            )
        else:
            others[ending or "no ending"] += 1
    if not pictures:
        held = f"files that end in {some(sorted(others))}" if others else "no files"
        raise UserError(
            f"{root} holds {held}, and no pictures (such as .jpg, .png, .webp or .tif): give a "
            "folder of pictures, or of class folders."
        )
    parts = [f"{count:,} with {ending}" for ending, count in others.most_common()]
    parts += [f"{hidden:,} hidden (names that begin with a dot, and {ARCHIVE})"] if hidden else []
    return pictures, [f"Left out, files: {', '.join(parts)}."] if parts else []


def splits(root, pictures, layout=None, above=""):
    """The pictures in a folder, by split.

    The folders in it are splits if all of them have names of splits (see SPLITS) and no picture is
    beside them, else classes. A lone folder that holds splits alone is looked into.

    Args:
      root: the folder.
      pictures: {path below it: size}.
      layout: `classes` or `splits`, what the folders are whatever their names; then folders without
        a name of a split are left out. None: by the rule above.
      above: path of the lone folder, with a slash.

    Returns:
      ({split: its Picture list, sorted by class and name}, sentences on what is left out).

    Raises:
      UserError: if there is no split, or pictures are beside class folders.
    """
    tops = {path.partition("/")[0] if "/" in path else "" for path in pictures}
    named = {top for top in tops if top.lower() in SPLITS}
    if layout == "classes" or (layout is None and named != tops):
        if layout is None and not above and (lone := _lone_folder(pictures, tops)):
            inner = {path.removeprefix(lone): size for path, size in pictures.items()}
            if all(path.partition("/")[0].lower() in SPLITS for path in inner):
                return splits(root, inner, layout, lone)
            raise UserError(
                f"{root} holds one folder, {lone}, which holds folders: give {root / lone}, or "
                "prepare it with --layout=classes if it is the one class."
            )
        return {"train": _by_class(root, "", pictures)}, []
    if not named:
        raise UserError(
            f"--layout is splits, but no folder with pictures in {root} is called "
            f"{', '.join(SPLITS)}: rename them, or leave --layout out."
        )
    found = collections.defaultdict(list)
    for top in sorted(named):
        inside = {p.partition("/")[2]: s for p, s in pictures.items() if p.startswith(f"{top}/")}
        found[SPLITS[top.lower()]] += _by_class(root, f"{above}{top}/", inside)
    left = sorted(tops - named - {""})
    notes = [f"Left out, folders that have no name of a split: {some(left)}."] if left else []
    return {s: sorted(p, key=lambda p: (p.folder, p.path)) for s, p in found.items()}, notes


def _lone_folder(pictures, tops):
    """Path of the one folder that holds all pictures below it, with a slash; None without one."""
    is_lone = len(tops) == 1 and all(path.count("/") > 1 for path in pictures)
    return f"{next(iter(tops))}/" if is_lone else None


def _by_class(root, above, pictures):
    """The pictures of a folder of class folders, sorted by class and name."""
    found = []
    for path, size in pictures.items():
        name, separator, _ = path.partition("/")
        found.append(Picture(above + path, size, name if separator else ""))
    found.sort(key=lambda picture: (picture.folder, picture.path))
    if found and found[0].folder == "" != found[-1].folder:
        raise UserError(
            f"{root} holds the picture {found[0].path} beside class folders: move it into one."
        )
    return found
