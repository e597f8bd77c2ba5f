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


TOKENS = ("pos_embed", "cls_token", "register_tokens", "mask_token")


def seeded_like(shapes, gain):
    """The same for feature networks: of variance `gain` / fan-in, with statistics and tokens."""
    return {name: _feature_weight(name, shape, gain) for name, shape in shapes.items()}


def _feature_weight(name, shape, gain):
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return (1 + 0.1 * np.abs(r)).astype(np.float32)
    if name.endswith(TOKENS):
        return (0.5 * r).astype(np.float32)
    if len(shape) > 1:
        return (r * np.sqrt(gain / np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * r + name.endswith(("weight", "gamma"))).astype(np.float32)


def nhwc(images):
    """[N, C, H, W] -> [N, H, W, C]."""
    return np.moveaxis(images, 1, -1)


def error(got, reference):
    """The largest difference, in units of the largest reference value."""
    got, reference = np.asarray(got), np.asarray(reference)
    assert got.shape == reference.shape
    return np.abs(got - reference).max() / np.abs(reference).max()
