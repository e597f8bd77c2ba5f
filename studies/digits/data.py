"""The handwritten digits that scikit-learn ships: a dataset that needs no network.

1,797 scans of 8 x 8 pixels in 10 classes (Alpaydin & Kaynak 1998, UCI Machine Learning
Repository). Values 0 .. 16 are scaled linearly to 0 .. 255. Beside its label each digit has two
conditions made of it: a vector, the 16 values of its thumbnail, and an image, its edges.
"""

import hashlib
import os

import numpy as np

from jaxdiff import files
from jaxdiff.data.dataset import INFO
from jaxdiff.data.prepared import prepare_arrays

TEST_SIZE = 297
EDGE = 128  # a difference of neighbouring pixels, 0 .. 255, from which on it is an edge


def load():
    """All scans in scikit-learn's order: (images [1797, 8, 8, 1] uint8, labels [1797] int64)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[..., None], digits.target


def split_indices(labels):
    """A fixed, stratified random permutation, cut in two: {"train": [1500], "test": [297]}."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=0
    )
    return {"train": train, "test": test}


def thumbnails(images):
    """The means of squares of 2 x 2 pixels, rows of 16 values in [-1, 1]: [N, 16] float32."""
    squares = images.astype(np.float32).reshape(-1, 4, 2, 4, 2)
    return squares.mean((2, 4)).reshape(-1, 16) / 127.5 - 1


def edges(images):
    """Where a pixel differs from the one to its right or below it: [N, 8, 8, 1] uint8, 0 or 255."""
    values = images.astype(np.int32)
    right = np.abs(np.diff(values, axis=2, append=values[:, :, -1:]))
    below = np.abs(np.diff(values, axis=1, append=values[:, -1:]))
    return np.where(np.maximum(right, below) >= EDGE, 255, 0).astype(np.uint8)


def splits():
    """{"train", "test"} of {"x": images, "cond": {"label", "vector", "image"}}."""
    images, labels = load()
    made = {}
    for split, chosen in split_indices(labels).items():
        # The order in which TFDS stores examples of these keys, so that runs see the same batches.
        order = sorted(range(len(chosen)), key=lambda key: _digest(split, key))
        x = images[chosen][order]
        cond = {"label": labels[chosen][order], "vector": thumbnails(x), "image": edges(x)}
        made[split] = {"x": x, "cond": cond}
    return made


def _digest(split, key):
    return hashlib.md5(f"{split}{key}".encode()).hexdigest()


def prepare():
    """Prepares the dataset in $JAXDIFF_CACHE (~/.cache/jaxdiff), if it is not there.

    Returns:
      Its folder.
    """
    cache = os.environ.get("JAXDIFF_CACHE") or os.path.expanduser("~/.cache/jaxdiff")
    folder = files.parse_path(cache, "JAXDIFF_CACHE") / "data" / "digits"
    if files.exists(folder / INFO):  # then scikit-learn, slow to import, is not needed
        return os.fspath(folder)
    return prepare_arrays(folder, splits())
