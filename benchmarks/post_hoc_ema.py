"""What rebuilding averages costs: 23 lengths from 40 snapshots of the digits network.

    python benchmarks/post_hoc_ema.py

Makes a run of random parameters in a temporary folder, with two averages in each snapshot, and
rebuilds `--lengths` of them as `python -m jaxdiff.checkpoints.ema` does, keeping included. Prints
the seconds and the process's peak memory, before and after: what is added must not depend on how
many snapshots there are.
"""

import contextlib
import pathlib
import resource
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxdiff import cli, factory
from jaxdiff import config as config_lib
from jaxdiff.checkpoints import ema, posthoc_ema
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/digits.py", "The config whose network it is."
)
SNAPSHOTS = flags.DEFINE_integer("snapshots", 40, "How many.", lower_bound=20)
LENGTHS = flags.DEFINE_integer("lengths", 23, "How many, from .02 to .24.", lower_bound=1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the snapshots.")

TRACKED = (0.05, 0.1)


def make_run(config, folder):
    """A run whose snapshots hold random parameters, every 100 steps."""
    config.training.power_ema = TRACKED
    run, network = Run(pathlib.Path(folder)), factory.network(config)
    run.config_file.write_text(config_lib.to_json(config))
    names = [profile_name(length) for length in TRACKED]
    draw = jax.jit(
        lambda key: jax.tree.map(
            lambda leaf: jax.random.normal(key, leaf.shape).astype(DTYPE.value), network.shapes
        )
    )
    with contextlib.closing(Store(run.snapshots)) as store:
        for n in range(1, SNAPSHOTS.value + 1):
            averages = {name: draw(jax.random.key(n)) for name in names}
            meta = {"step": 100 * n, "ema": names, "dtype": DTYPE.value}
            store.save(100 * n, {"ema": averages}, meta)
    return run


def peak_mib():
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    config = cli.require_config(CONFIG)
    config_lib.validate(config)
    if shutil.disk_usage(tempfile.gettempdir()).free < 2**30:
        raise UserError("The folder for temporary files is full: set TMPDIR to another.")
    lengths = np.linspace(0.02, 0.24, LENGTHS.value).round(4).tolist()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(config, folder)
        before, start = peak_mib(), time.perf_counter()
        plan = posthoc_ema.plan(run.folder, lengths)
        posthoc_ema.check(plan)
        planned = time.perf_counter()
        totals = jax.block_until_ready(posthoc_ema.rebuild(plan, ema.template(plan)))
        rebuilt, peak = time.perf_counter(), peak_mib()
        posthoc_ema.keep(plan, totals)
        kept = time.perf_counter()
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(totals[0])) / 2**20
    print(
        f"{len(lengths)} averages of {one:.1f} MiB from {SNAPSHOTS.value} snapshots in "
        f"{DTYPE.value}: {kept - start:.1f} s ({planned - start:.1f} planning, "
        f"{rebuilt - planned:.1f} rebuilding, {kept - rebuilt:.1f} keeping); peak memory "
        f"{before:.0f} MiB before, {peak:.0f} MiB after rebuilding, of which the averages are "
        f"{one * len(lengths):.0f}."
    )


if __name__ == "__main__":
    cli.run(main)
