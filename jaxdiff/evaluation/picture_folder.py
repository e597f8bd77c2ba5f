"""A folder of pictures as a set of images of one shape, read as they are asked for."""

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from etils import epath
from PIL import UnidentifiedImageError

from jaxdiff import files
from jaxdiff.data import layout
from jaxdiff.data.images import convert, fit
from jaxdiff.data.pictures import decode, endings, find_whites, header
from jaxdiff.data.record import ALL, SOME
from jaxdiff.errors import UserError

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats of Pillow that lose detail


@dataclasses.dataclass(frozen=True)
class PictureFolder:
    """Pictures of one split of a folder, sorted by class and name.

    Attributes:
      paths: of the files.
      shape: (H, W, C) that they have or are brought to.
      whites: as `jaxdiff.data.pictures.decode` takes them.
      is_fitted: whether they are brought to that shape.
      how: they are, as `jaxdiff.data.images.fit` takes it.
      digest: SHA-256 of the names, the sizes and the contents, and of how they are brought to
        their shape; of more than 65,536 pictures, the contents of 4,096 spread evenly.
      labels: int [N], or None without class folders.
      class_names: of the labels.
      lossy: how many files are JPEG or another format that loses detail.
      notes: sentences on what is left out.
    """

    paths: tuple[epath.Path, ...]
    shape: tuple[int, int, int]
    whites: dict | None
    is_fitted: bool
    how: str
    digest: str
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    lossy: int
    notes: tuple[str, ...]

    def fetch(self, rows):
        """uint8 [B, H, W, C] of the pictures with these numbers.

        Raises:
          UserError: for a file that is no whole picture, or one of another size.
        """
        with _threads() as pool:
            return np.stack(list(pool.map(self._image, (self.paths[row] for row in rows))))

    def _image(self, path):
        image = _read(path, partial(decode, path, self.whites))
        if self.is_fitted:
            return fit(image, self.shape[0], self.shape[2], self.how)
        _check_size(path, image.shape[:2], self.shape[:2])
        return convert(image, self.shape[2])


def open_folder(root, name, split, image_size, how):
    """The PictureFolder of a split of a local folder.

    Args:
      root: the folder: of pictures, of class folders, or of splits of these.
      name: as the user gave it.
      split: None: `train`, or the only one.
      image_size: height and width that pictures are brought to; None: they must have one size.
      how: they are brought to it, as `jaxdiff.data.images.fit` takes it.

    Raises:
      UserError: if it holds no pictures in such an order, or pictures of several sizes without
        image_size, or one that is no picture.
    """
    found, notes = layout.find(root)
    splits, more = layout.splits(root, found)
    pictures = splits[_chosen(name, splits, split)]
    paths = tuple(root / picture.path for picture in pictures)
    count = len(paths) if len(paths) <= ALL else SOME
    chosen = [paths[n * len(paths) // count] for n in range(count)]
    digest = hashlib.sha256(
        "".join(f"{p.path}\0{p.size}\n" for p in pictures).encode("utf-8", "surrogateescape")
    )
    headers = []
    with _threads() as pool:
        for own, each in pool.map(_described, chosen):
            digest.update(own)
            headers.append(each)
    height, width = headers[0].height, headers[0].width
    if image_size is None:
        for path, each in zip(chosen, headers, strict=True):
            _check_size(path, (each.height, each.width), (height, width))
    is_grey = count == len(paths) and all(each.is_grey for each in headers)
    is_deep = any(each.is_deep for each in headers)
    shape = (image_size or height, image_size or width, 1 if is_grey else 3)
    digest.update(f"{shape} {how if image_size else ''}".encode())
    classes = sorted({picture.folder for picture in pictures} - {""})
    number = {folder: n for n, folder in enumerate(classes)}
    return PictureFolder(
        paths=paths,
        shape=shape,
        whites=find_whites(None, paths) if is_deep else None,
        is_fitted=image_size is not None,
        how=how,
        digest=digest.hexdigest(),
        labels=np.array([number[p.folder] for p in pictures]) if classes else None,
        class_names=tuple(classes),
        lossy=sum(endings()[os.path.splitext(p.path)[1].lower()] in LOSSY for p in pictures),
        notes=(*notes, *more),
    )


def _threads():
    """Pillow decodes without Python's lock."""
    return ThreadPoolExecutor(os.cpu_count())


def _chosen(name, splits, split):
    """The split that is meant."""
    if split is None:
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split not in splits:
        raise UserError(
            f"{name} has no split {split or 'train'}: it has {', '.join(splits)}, of which --split "
            "chooses one."
        )
    return split


def _described(path):
    """(SHA-256, Header) of a file."""
    content = files.read_bytes(path)
    return hashlib.sha256(content).digest(), _read(path, partial(header, content))


def _read(path, function):
    """What a decoder makes of a picture; UserError if it is none, or not a whole one."""
    try:
        return function()
    except UnidentifiedImageError:
        reason = "Pillow knows no such format"
    except Exception as error:  # the decoders of a dozen formats raise what they like
        cause = error
        if isinstance(error, UserError):  # of the disk, or of an OSError that Pillow raised itself
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno is not None:
                raise
        reason = (" ".join(str(cause).split()) or type(cause).__name__)[:200]
    raise UserError(f"{path} is no whole picture ({reason}): restore it, or remove it.")


def _check_size(path, size, expected):
    if tuple(size) != tuple(expected):
        raise UserError(
            f"{path} has {size[0]}x{size[1]} pixels (height x width) and others have "
            f"{expected[0]}x{expected[1]}: give the --image_size that all are brought to."
        )
