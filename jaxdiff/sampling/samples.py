"""Samples in memory, and the files of a folder that holds them.

settings.json              what decides the samples, written first
shards/00000-of-00098.npz  consecutive samples, each shard written whole; removed at the end
samples_{N}x{H}x{W}x{C}.npz  arr_0 uint8 images, arr_1 int64 the first label, others by name
grid.png                   the first of them
manifest.json              the settings and what came of them, written last
"""

import dataclasses
from typing import Any

import numpy as np

from jaxdiff import claims, files
from jaxdiff.arrays import Stream, load_npz, save_npz
from jaxdiff.errors import UserError
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.settings import label_of

SETTINGS, SHARDS, GRID, MANIFEST = "settings.json", "shards", "grid.png", "manifest.json"
WRITTEN = ("samples_*.npz", SHARDS, GRID, MANIFEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of a model.

    Attributes:
      images: uint8 [N, H, W, C], or what else the model's codec decodes.
      x: float32 [N, ...], the samples themselves; None where they were read from a file.
      cond: {name: array [N, ...]}, what they are conditioned on.
      class_names: of the labels, in order; empty where they have none.
      non_finite: int [K], numbers of the samples that hold NaN or infinities, whose images mean
        nothing.
      source: the Job that made them, or the settings of one as a manifest has them.
    """

    images: np.ndarray
    x: np.ndarray | None = None
    cond: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    non_finite: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    source: Any = dataclasses.field(default_factory=dict)

    @property
    def settings(self):
        """What decided them, as the manifest has it."""
        return self.source if isinstance(self.source, dict) else self.source.settings

    def __len__(self):
        return len(self.images)

    def grid(self):
        """A PIL image of the first 100, with their classes."""
        return image_grid.picture(self.images, self.cond, self.class_names, self.non_finite)

    def save(self, folder):
        """Writes the files that sample.py writes into a folder that is not another request's.

        Raises:
          UserError: if the folder holds something else, or cannot be written.
        """
        out = files.parse_path(folder, "The folder")
        with claims.claimed_folder(out, self.settings, SETTINGS, WRITTEN):
            claims.in_first(write, out, self, self.settings, [self.images], len(self))


def write(out, samples, settings, parts, count):
    """Writes all results; returns the manifest.

    Args:
      out: the folder.
      samples: Samples, of which the first images suffice.
      settings: what decides them.
      parts: all images, in consecutive parts.
      count: how many there are in all.
    """
    images, bad, ends = samples.images, np.asarray(samples.non_finite), [0]

    def marked():
        for part in parts:
            ends.append(ends[-1] + len(part))
            own = bad[(bad >= ends[-2]) & (bad < ends[-1])] - ends[-2]
            yield finite.marked(part, own)

    shape = (count, *images.shape[1:])
    arrays = {"arr_0": Stream(shape, images.dtype, marked())}
    arrays |= stored(samples.cond)
    arrays |= {finite.ARRAY: bad} if len(bad) else {}
    name = f"samples_{'x'.join(map(str, shape))}.npz"
    written = {name: save_npz(out / name, arrays)}
    if (picture := samples.grid()) is not None:
        with files.replacing(out / GRID) as file:
            picture.save(file, "png")
        written[GRID] = files.sha256(out / GRID)
    manifest = {**settings, "non_finite": finite.summary(bad), "sha256": written}
    files.write_json(out / MANIFEST, manifest)
    return manifest


def samples_file(path):
    """The file itself, or the one file samples_*.npz of a folder that sample.py wrote.

    Raises:
      UserError: if the folder does not hold one.
    """
    if not files.is_folder(path):
        return path
    found = [n for n in files.names(path) if n.startswith("samples_") and n.endswith(".npz")]
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} files samples_*.npz: name one of them.")
    return path / found[0]


def stored(cond):
    """Conditions {name: array} as files have them: the first label as arr_1, the others by name."""
    label = label_of(cond)
    return {
        "arr_1" if name == label else name: np.int64(array) if array.dtype.kind == "i" else array
        for name, array in cond.items()
    }


def load_arrays(file, label):
    """All arrays of a file of samples by name, arr_1 by that of the label, or not where None."""
    arrays = load_npz(file)
    first, _ = arrays.pop("arr_1", None), arrays.pop("settings", None)
    return arrays if first is None or label is None else {label: first, **arrays}


def load_samples(path, label=None):
    """Samples of a file or folder that sample.py or `Samples.save` wrote.

    Args:
      path: of it.
      label: name of the condition that arr_1 holds; None: as the manifest beside it says.

    Raises:
      UserError: if there is none.
    """
    file = samples_file(files.parse_path(path, "The samples"))
    manifest = file.parent / MANIFEST
    settings = files.read_json(manifest) if files.exists(manifest) else {}
    arrays = load_arrays(file, label or settings.get("label") or "label")
    if "arr_0" not in arrays:
        raise UserError(f"{file} has no array arr_0: give a file of samples.")
    bad, images = arrays.pop(finite.ARRAY, np.zeros(0, np.int64)), arrays.pop("arr_0")
    names = tuple(settings.get("class_names", ()))
    return Samples(images=images, cond=arrays, class_names=names, non_finite=bad, source=settings)
