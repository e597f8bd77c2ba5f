"""Golden values of the reference implementation: what a case's files hold."""

import json
import os
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(os.environ.get("JAXDIFF_GOLDENS", pathlib.Path(__file__).parent / "goldens"))


def names(*patterns):
    """Names of the cases whose JSON file matches one of the patterns."""
    return sorted(path.stem for pattern in patterns for path in FOLDER.glob(f"{pattern}.json"))


def load(name):
    """What was built, as the case's JSON says it, and its arrays by name."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return json.loads((FOLDER / f"{name}.json").read_text()), dict(arrays)


def seeded(shapes):
    """The state dict {name: float32 array} that follows from {name: shape}."""
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name, shape):
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (r / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * r + name.endswith("weight")).astype(np.float32)


def nhwc(images):
    """[N, C, H, W] -> [N, H, W, C]."""
    return np.moveaxis(images, 1, -1)


def error(got, reference):
    """The largest difference, in units of the largest reference value."""
    got, reference = np.asarray(got), np.asarray(reference)
    assert got.shape == reference.shape
    return np.abs(got - reference).max() / np.abs(reference).max()
