"""The images that the studies of evaluation measure, and the damage that is done to them.

Images are uint8 [N, H, W, C]. Every function returns new ones of the same shape, and the same ones
for the same arguments.
"""

import io
import os

import numpy as np
from PIL import Image

from jaxdiff import files
from jaxdiff.data.images import fit
from jaxdiff.data.pictures import decode, endings
from jaxdiff.errors import UserError

SEED = 0  # of every choice and of the noise


def blur(images, size):
    """Images resized to size x size pixels and back, bicubically with antialiasing."""
    height, width = images.shape[1:3]

    def through(picture):
        small = picture.resize((size, size), Image.Resampling.BICUBIC)
        return small.resize((width, height), Image.Resampling.BICUBIC)

    return _mapped(through, images)


def noise(images, deviation):
    """Images with independent Gaussian noise, of a standard deviation in grey levels, rounded."""
    drawn = np.random.default_rng(SEED).standard_normal(images.shape, np.float32)
    return np.round(np.clip(images + deviation * drawn, 0, 255)).astype(np.uint8)


def jpeg(images, quality):
    """Images compressed as JPEG by Pillow, and read again."""

    def through(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _mapped(through, images)


def _mapped(function, images):
    """The function of a PIL picture, of each of the images."""
    grey = images.shape[-1] == 1
    pictures = map(Image.fromarray, images[..., 0] if grey else images)
    return np.stack([np.asarray(function(picture)) for picture in pictures]).reshape(images.shape)


def kept_classes(labels, classes, count):
    """Rows of the first `count / len(classes)` images of each of some classes: int [count]."""
    each, rest = divmod(count, len(classes))
    assert not rest, f"{count} images of {len(classes)} classes"
    rows = np.concatenate([np.flatnonzero(labels == c)[:each] for c in classes])
    assert len(rows) == count, "a class has too few images"
    return rows


def duplicated(count, copies, seed=SEED):
    """Rows of count / copies images, drawn at random, `copies` times each: int [count]."""
    drawn = np.random.default_rng(seed).permutation(count)[: count // copies]
    return np.tile(drawn, copies)


def mixed(images, others, share, seed=SEED):
    """Images of which a share, at places drawn at random, is replaced by the first of others."""
    count = round(share * len(images))
    places = np.random.default_rng(seed).permutation(len(images))[:count]
    result = images.copy()
    result[places] = others[:count]
    return result


def photographs(folder, size):
    """Photographs of a folder of class folders, brought to size x size pixels as ADM does.

    Args:
      folder: epath.Path.
      size: height and width.

    Returns:
      (images uint8 [N, size, size, 3], labels int [N], names of the classes); those of a class are
      in an order drawn at random.

    Raises:
      UserError: if the folder holds no class folders of pictures.
    """
    images, labels, names = [], [], []
    for name in sorted(files.names(folder)) if files.is_folder(folder) else []:
        paths = sorted(folder / name / file for file in _pictures(folder / name))
        if not paths:
            continue
        order = np.random.default_rng(SEED).permutation(len(paths))
        images += [fit(decode(paths[n]), size, 3) for n in order]
        labels += [len(names)] * len(paths)
        names.append(name)
    if not names:
        raise UserError(f"{folder} holds no class folders of pictures: give a folder of such.")
    return np.stack(images), np.array(labels), tuple(names)


def _pictures(folder):
    found = files.names(folder) if files.is_folder(folder) else []
    return [name for name in found if os.path.splitext(name)[1].lower() in endings()]


def fashion(folder, split, count, size=32):
    """The first images of a split of Fashion-MNIST, framed with black as the project's runs do.

    Args:
      folder: of the prepared dataset.
      split: train or test.
      count: how many.
      size: height and width with the frame.

    Returns:
      (images uint8 [count, size, size, 1], labels int [count]).
    """
    from jaxdiff.config import DataConfig, Label
    from jaxdiff.data.source import open_split

    data = DataConfig(name=str(folder), image_size=size, fit="pad", channels=1)
    batch = open_split(data, split, (Label(10),)).fetch(np.arange(count))
    return batch["x"], batch["cond"]["label"]


def like(images, shape):
    """Images brought to another shape [H, W, C], bicubically with antialiasing."""
    height, width, channels = shape
    pictures = map(Image.fromarray, images[..., 0] if images.shape[-1] == 1 else images)
    mode = "L" if channels == 1 else "RGB"
    resized = [p.convert(mode).resize((width, height), Image.Resampling.BICUBIC) for p in pictures]
    return np.stack([np.asarray(each) for each in resized]).reshape(-1, *shape)
