"""Peak memory and time of merging the shards of a sampling job.

python benchmarks/merge_shards.py --folder /tmp --num_samples 50000 --image_size 256

Shards of 1,024 synthetic samples are written below the folder, which may be in a bucket, and
merged; the largest resident memory of the process that merges is printed. Everything is then
removed. It takes twice the room of the samples: 20 GB for 50,000 of 256 x 256 x 3.
"""

import argparse
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np

from jaxdiff import files, locks
from jaxdiff.arrays import save_npz
from jaxdiff.sampling import merge
from jaxdiff.sampling.shards import Shards


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--num_samples", type=int, default=50_000)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--shard_size", type=int, default=1024)
    parser.add_argument("--write", action="store_true", help="only write shards")
    parser.add_argument("--merge", action="store_true", help="only merge what is there")
    args = parser.parse_args()
    out = files.parse_path(args.folder, "--folder") / "merge_shards"
    shards = Shards(out, args.num_samples, args.shard_size)
    settings = {"num_samples": args.num_samples, "shard": args.shard_size}
    if args.write:
        write_shards(shards, settings, args.image_size)
        return
    if args.merge:
        merge_shards(shards, settings)
        return
    try:
        # Each in a process of its own: the peak of one that starts another is that one's too.
        for part in ("--write", "--merge"):
            subprocess.run([sys.executable, *sys.argv, part], check=True)
    finally:
        files.remove_tree(out)


def write_shards(shards, settings, size):
    files.make_folder(shards.out)
    files.write_json(shards.out / "settings.json", settings)
    for number in range(shards.total):
        numbers = shards.numbers(number)
        images = np.empty((len(numbers), size, size, 3), np.uint8)
        images[:] = (numbers % 256).astype(np.uint8)[:, None, None, None]
        arrays = {"images": images, "non_finite": np.arange(0)}
        save_npz(shards.path(number), arrays)


def merge_shards(shards, settings):
    job = SimpleNamespace(cond={"label": np.arange(shards.count) % 1000}, class_names=())
    before, begin, cpu = peak(), time.perf_counter(), time.process_time()
    name = next(iter(merge.merge(job, shards, settings)["sha256"]))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    size = files.size(shards.out / name)
    print(f"{name}: {size / 1e9:.2f} GB merged in {seconds:.0f} s, of the CPU {cpu:.0f} s")
    print(f"largest resident memory: {peak() / 1e9:.2f} GB; {before / 1e9:.2f} GB before merging")
    assert locks.LOCK not in files.names(shards.out)


def peak():
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
