"""Datasets that tests prepare of arrays and pictures, and read back."""

import io

import numpy as np
from PIL import Image

from jaxdiff.config import DataConfig
from jaxdiff.data.prepare import Preparation, prepare
from jaxdiff.data.source import open_split


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def prepare_here(kind, *sources, out, **values):
    """What the command does, in this process; the Report."""
    values = Preparation(**{"name": "mine", "out": str(out), **values})
    return prepare(kind, sources, values)[1]


def read(folder, split="train", conditions=(), size=8, channels=1):
    """(the Source, all its examples)."""
    data = DataConfig(name=str(folder), image_size=size, channels=channels)
    source = open_split(data, split, conditions)
    return source, source.all()


def contents(folder):
    """{file: its bytes}."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def encoded(image, kind="png", **options):
    """The bytes of a file of an array or a PIL image."""
    file = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(file, kind, **options)
    return file.getvalue()


def tell_apart(folder, names):
    """Grey pictures, each of another value; returns the values by name."""
    values = {name: n + 1 for n, name in enumerate(names)}
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / name)
    return values
