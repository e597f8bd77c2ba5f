"""Samples in memory, and the job that writes them: a folder of shards, then one file.

settings.json              what decides the samples, written first
shards/00000-of-00098.npz  consecutive samples, each shard written whole; removed at the end
samples_{N}x{H}x{W}x{C}.npz  arr_0 uint8 images, arr_1 int64 the first label, others by name
grid.png                   the first of them
manifest.json              the settings and what came of them, written last
"""

import dataclasses
import itertools
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff import claims, files
from jaxdiff.arrays import Stream, load_npz, save_npz
from jaxdiff.errors import UserError
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import even_size
from jaxdiff.progress import progress_bar
from jaxdiff.samplers.grid import Grid
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.guidance_config import Method
from jaxdiff.sampling.pipeline import Params, Pipeline
from jaxdiff.sampling.settings import label_of, settings_of

SHARD = 1024  # samples of a shard, about
SETTINGS, SHARDS, GRID, MANIFEST = "settings.json", "shards", "grid.png", "manifest.json"
WRITTEN = ("samples_*.npz", SHARDS, GRID, MANIFEST)
ADVICE = "choose another --out, or delete that folder"


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
            claims.in_first(_write, out, self, self.settings, [self.images], len(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A request with all that it names found and checked.

    Attributes:
      model: the TrainedModel that is sampled.
      method: how it is guided.
      pipeline: that samples it.
      grid: the sampler's.
      num_samples: N.
      batch_size: how many at once over all devices.
      seed: of everything random.
      cond: {name: array [N, ...]}.
      class_names: of the labels.
      start: [N, ...] float32, unit noise to start from; None: each sample's own.
      request: {name: settings} of the sampler, guidance and so on, for the manifest.
    """

    model: Any
    method: Method
    pipeline: Pipeline
    grid: Grid
    num_samples: int
    batch_size: int
    seed: int
    cond: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    start: np.ndarray | None
    request: dict

    @cached_property
    def settings(self):
        """What decides the samples, as JSON values."""
        return settings_of(self)

    @property
    def evaluations(self):
        """{network: evaluations for one sample}, of the networks that are evaluated at all."""
        names, spent = ("model", *map(str, self.method.guides), "classifier"), {}
        counts = self.pipeline.evaluations(self.grid.num_steps, self.method.params)
        for name, count in zip(names, counts, strict=True):
            if count:
                spent[name] = spent.get(name, 0) + count
        return spent

    def sample(self, params, numbers, batch_size, with_x=False, bar=None):
        """What the pipeline returns of the samples with these numbers.

        Raises:
          UserError: if the memory does not suffice.
        """
        cond = {name: array[numbers] for name, array in self.cond.items()}
        start = None if self.start is None else self.start[numbers]
        with out_of_memory(f"choose a batch size smaller than {batch_size}"):
            return self.pipeline(
                params,
                self.grid,
                self.seed,
                numbers,
                batch_size,
                cond,
                self.method.params,
                self.method.cads,
                start,
                with_x=with_x,
                bar=bar,
            )

    def params(self, main=None):
        """The parameters of all networks that are evaluated; `main`: the model's, where given."""
        with out_of_memory("use devices with more"):
            return Params(
                self.model.params if main is None else main,
                tuple(guide.params for guide in self.method.guides),
                self.method.classifier.params if self.method.uses_classifier else None,
            )

    def samples(self):
        """All samples, in memory."""
        numbers, size = np.arange(self.num_samples), even_size(self.num_samples, self.batch_size)
        found = self.sample(self.params(), numbers, size, with_x=True)
        return Samples(
            images=found["images"],
            x=found["x"],
            cond=self.cond,
            class_names=self.class_names,
            non_finite=np.flatnonzero(~found["finite"]),
            source=self,
        )


def run(job, out, shard=None):
    """Samples a job into a folder; shards that are there already are not sampled again.

    Args:
      job: a Job.
      out: an epath.Path.
      shard: samples of a shard; None: as the folder has it, or about 1,024 in whole batches.

    Raises:
      UserError: for a folder that cannot be used, and for samples that are not finite, after all
        has been written.
    """
    size = processes.agree(claims.in_first(_shard, job, out, shard) or 0)
    settings = {**job.settings, "shard": size}
    with claims.claimed_folder(out, settings, SETTINGS, WRITTEN):
        found = claims.in_first(_finished, out, settings)
        if not processes.agree(found is not None):
            _sample(job, out, size)
            found = claims.in_first(_merge, job, out, settings, size)
        claims.in_first(_end, out, found, job.num_samples)


def _shard(job, out, size):
    """Samples of a shard; those of a folder that is continued are of one size."""
    path = out / SETTINGS
    there = files.read_json(path, advice=ADVICE).get("shard") if files.exists(path) else None
    return size or there or job.batch_size * max(1, round(SHARD / job.batch_size))


def shard_paths(out, count, size):
    """Paths of the shards of `count` samples, in order."""
    total = -(-count // size)
    return [out / SHARDS / f"{number:05d}-of-{total:05d}.npz" for number in range(total)]


def _sample(job, out, size):
    """Samples the shards that are not there."""
    count, paths = job.num_samples, shard_paths(out, job.num_samples, size)
    there = claims.in_first(files.names, out / SHARDS) or ()
    is_there = [bool(processes.agree(path.name in there)) for path in paths]
    _announce(job, sum(is_there), len(paths))
    if all(is_there):
        return
    params, batch_size = job.params(), even_size(min(size, count), job.batch_size)
    done = sum(min(size, count - n * size) for n, there in enumerate(is_there) if there)
    with progress_bar(count, "image", initial=done, quiet=not processes.is_first()) as bar:
        for n, path in enumerate(paths):
            if is_there[n]:
                continue
            numbers = np.arange(n * size, min((n + 1) * size, count))
            found = job.sample(params, numbers, batch_size, bar=bar)
            arrays = {"images": found["images"], finite.ARRAY: numbers[~found["finite"]]}
            claims.in_first(save_npz, path, arrays)


def _announce(job, there, total):
    if processes.is_first():
        print(
            f"Sampling {job.model} with {job.request['sampling'].kind}, {job.grid.num_steps} "
            "steps; network evaluations for each sample: "
            f"{', '.join(f'{count} of {name}' for name, count in job.evaluations.items())}.",
            *job.method.notes,
            *([f"{there} of {total} shards are there already."] if there else []),
            *(["Compiling the sampler, which the first batch waits for."] * (there < total)),
            sep="\n",
            flush=True,
        )


def _merge(job, out, settings, size):
    """Makes the results of the shards, one of which is in memory at a time; the manifest."""
    paths, count = shard_paths(out, job.num_samples, size), job.num_samples
    bad = np.concatenate([load_npz(path, [finite.ARRAY])[finite.ARRAY] for path in paths])
    shards = (load_npz(path, ["images"])["images"] for path in paths)
    first = list(itertools.islice(shards, -(-image_grid.MOST_TILES // size)))
    samples = Samples(
        images=np.concatenate(first),
        cond=job.cond,
        class_names=job.class_names,
        non_finite=bad,
    )
    found = _write(out, samples, settings, itertools.chain(first, shards), count)
    files.remove_tree(out / SHARDS)
    return found


def _write(out, samples, settings, parts, count):
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
    save_npz(out / name, arrays)
    written = [name]
    if (picture := samples.grid()) is not None:
        with files.replacing(out / GRID) as file:
            picture.save(file, "png")
        written.append(GRID)
    manifest = {
        **settings,
        "non_finite": finite.summary(bad),
        "sha256": {name: files.sha256(out / name) for name in written},
    }
    files.write_json(out / MANIFEST, manifest)
    return manifest


def _finished(out, settings):
    """The manifest of these very settings, if all its files are there; else None.

    Raises:
      UserError: if one of the files was changed.
    """
    if not files.exists(out / MANIFEST):
        return None
    manifest = files.read_json(out / MANIFEST, ("sha256", "non_finite"), advice=ADVICE)
    results = {name: manifest[name] for name in ("sha256", "non_finite")}
    claims.check_same(out, {k: v for k, v in manifest.items() if k not in results}, settings)
    for name, checksum in results["sha256"].items():
        if not files.exists(out / name):
            return None
        if files.sha256(out / name) != checksum:
            raise UserError(f"{out / name} was changed since it was written: {ADVICE}.")
    files.remove_tree(out / SHARDS)  # of a program that was killed after it wrote the manifest
    print(f"The {settings['num_samples']} samples of this request are in {out} already.")
    return manifest


def _end(out, manifest, count):
    """Says what was written; raises UserError for samples that are not finite."""
    if manifest["non_finite"]["count"]:
        raise UserError(
            f"{finite.about(manifest['non_finite'], count)}, see {out / MANIFEST}: choose a "
            "smaller weight, scale or churn, sample with clip, or use another step of the model."
        )
    print(f"{count} samples are in {out}: {', '.join([*manifest['sha256'], MANIFEST])}.")


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
