"""Samples a job into a folder, in one process or in many that share nothing but the folder.

The settings are claimed, and all processes of one request may then work in the folder. Each samples
shards; the one that finds all of them there merges them. See samples.py for the files.
"""

import dataclasses
import functools
import time

from jaxdiff import claims, files, locks, stopping
from jaxdiff.arrays import save_npz
from jaxdiff.errors import UserError
from jaxdiff.parallel.batches import even_size
from jaxdiff.sampling import finite, merge
from jaxdiff.sampling.samples import MANIFEST, SETTINGS, SHARDS, WRITTEN
from jaxdiff.sampling.shards import LOCKS, SIZE, Place, Progress, Shards, for_each_free

NAMED = 3  # shards of others whose holders are named


def run(job, out, shard_size=None, place=None):
    """Samples a job into a folder; shards that are there already are not sampled again.

    Args:
      job: a Job, on devices of this process.
      out: an epath.Path.
      shard_size: samples of a shard; None: as the folder has it, or 1,024.
      place: the Place of this process among those that sample the job; None: it is alone.

    Raises:
      UserError: for a folder that cannot be used, and for samples that are not finite, after all
        has been written.
    """
    if job.pipeline.mesh.is_multi_process:
        raise UserError(
            "The model is on devices of several processes, and each process of a sampling job "
            "works on its own: give it a mesh of jax.local_devices()."
        )
    place, settings = place or Place(), _claim(job, out, shard_size)
    shards = Shards(out, job.num_samples, settings["shard"])
    can_lock = locks.has_locks(out / SETTINGS)
    with stopping.deferred():
        try:
            manifest = merge.finished(out, settings)
            if manifest is None:
                place = place if can_lock else _divided(out, place)
                manifest = _work(job, shards, settings, place)
        except BaseException:
            if can_lock or place.count == 1:  # else others may be in the folder
                files.remove_if_empty(out / SHARDS)
                claims.take_back(out, settings, SETTINGS, LOCKS)
            raise
    if manifest is not None:
        _end(out, manifest, job.num_samples)


def _claim(job, out, size):
    """Claims the folder for a job; its settings, with the size of shards that the folder has."""
    is_new = not files.exists(out)
    try:
        while True:
            path = out / SETTINGS
            there = files.exists(path) and files.read_json(path, advice=claims.OUT).get("shard")
            settings = {**job.settings, "shard": size or there or SIZE}
            try:
                claims.claim(out, settings, SETTINGS, WRITTEN)
                return settings
            except UserError:
                # Another process may just have claimed it, for shards of another size.
                if size or there or not files.exists(path):
                    raise
    except BaseException:
        if is_new:
            files.remove_if_empty(out)
        raise


def _divided(out, place):
    """The place where the storage has no locks: a fixed one."""
    if place.is_fixed:
        return place
    place = dataclasses.replace(place, is_fixed=True)
    print(
        f"The storage of {out} has no locks: this is part {place.index} of {place.count} of the "
        "job, and takes its shards alone; start others with --shard."
    )
    return place


def _work(job, shards, settings, place):
    """Samples what is free, and merges all shards if they are there.

    Returns:
      The manifest; None if other processes are not finished.
    """
    repeated = set()
    while True:
        held = _sample(job, shards, settings, place)
        missing = {*range(shards.total)} - {*shards.there()}
        if files.exists(shards.out / MANIFEST):  # then another process removes the shards
            return merge.manifest(shards.out, settings)
        if missing:
            _say_missing(shards, held, sorted(missing))
            return None
        try:
            return merge.merge(job, shards, settings)
        except locks.InUse:
            who = locks.holder(shards.out / locks.LOCK)
            print(f"All {shards.total} shards are there, and are being merged by {who}.")
            return None
        except merge.CorruptShard as error:
            if error.number in repeated:
                raise
            repeated.add(error.number)
            print(f"{error.reason}; it is removed, to be sampled again.", flush=True)
            files.remove(shards.path(error.number))


def _sample(job, shards, settings, place):
    """Samples the shards that are free; numbers of those that others hold."""
    there, begun = shards.there(), time.monotonic()
    _announce(job, shards, place, len(there))
    batch_size, own = even_size(min(shards.size, shards.count), job.batch_size), []
    params = functools.cache(lambda: job.params())  # read once a shard is held

    def sample(number):
        claims.remove_partial(shards.out / SHARDS, shards.path(number).name)
        numbers = shards.numbers(number)
        found = job.sample(params(), numbers, batch_size, bar=bar)
        arrays = {"images": found["images"], finite.ARRAY: numbers[~found["finite"]]}
        # The folder may have been removed meanwhile, and be another request's by now.
        claims.claim(shards.out, settings, SETTINGS)
        save_npz(shards.path(number), arrays)
        own.append(number)
        bar.end_shard()

    with Progress(shards, quiet=place.index > 0) as bar:
        held = for_each_free(shards, place, sample)
    if place.count > 1:
        print(
            f"{place} sampled {len(own)} of {shards.total} shards, {shards.samples(own):,} "
            f"samples, in {time.monotonic() - begun:,.0f} s.",
            flush=True,
        )
    return held


def _announce(job, shards, place, there):
    lines = []
    if place.index == 0:
        counts = (f"{count} of {name}" for name, count in job.evaluations.items())
        lines += [
            f"Sampling {job.model} with {job.request['sampling'].kind}, {job.grid.num_steps} "
            f"steps; network evaluations for each sample: {', '.join(counts)}.",
            *job.method.notes,
        ]
    else:
        lines.append(f"{place} samples shards of {shards.out}.")
    if there:
        lines.append(f"{there} of {shards.total} shards are there already.")
    if there < shards.total:
        lines.append("Compiling the sampler, which the first batch waits for.")
    print(*lines, sep="\n", flush=True)


def _say_missing(shards, held, missing):
    """Says which shards others still sample, and which nobody does."""
    if held := [number for number in held if number in missing]:
        named = [f"{n} by {locks.holder(shards.lock(n))}" for n in held[:NAMED]]
        more = f", and {len(held) - NAMED} more" if len(held) > NAMED else ""
        print(
            f"Others still sample {len(held)} of {shards.total} shards: {', '.join(named)}{more}; "
            "who is last merges all of them."
        )
    if left := [number for number in missing if number not in held]:
        print(
            f"Left to other parts: {len(left)} of {shards.total} shards, the first of them shard "
            f"{left[0]}; start these, or repeat the command without --shard."
        )


def _end(out, manifest, count):
    """Says what was written; raises UserError for samples that are not finite."""
    if manifest["non_finite"]["count"]:
        raise UserError(
            f"{finite.about(manifest['non_finite'], count)}, see {out / MANIFEST}: choose a "
            "smaller weight, scale or churn, sample with clip, or use another step of the model."
        )
    print(f"{count} samples are in {out}: {', '.join([*manifest['sha256'], MANIFEST])}.")
