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
from typing import Annotated, Literal

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import numpy as np
from etils import epath

from configs import digits
from jaxdiff import cli, factory
from jaxdiff.checkpoints import posthoc_ema
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import Range, replaced
from jaxdiff.errors import UserError

TRACKED = (0.05, 0.1)


def make_run(config, folder, snapshots, dtype):
    """A run whose snapshots hold random parameters, every 100 steps."""
    run, network = Run(epath.Path(folder)), factory.network(config)
    run.write_config(replaced(config, {"training.power_ema": TRACKED}))
    names = [profile_name(length) for length in TRACKED]
    draw = jax.jit(
        lambda key: jax.tree.map(
            lambda leaf: jax.random.normal(key, leaf.shape).astype(dtype), network.shapes
        )
    )
    with contextlib.closing(Checkpointer(run.snapshots)) as steps:
        for n in range(1, snapshots + 1):
            averages = {name: draw(jax.random.key(n)) for name in names}
            meta = {"step": 100 * n, "ema": names, "dtype": dtype}
            steps.save(100 * n, {"ema": averages}, meta)
    return run


def peak_mib():
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "snapshots", Annotated[int, Range(20, 1000)], 40, "How many")
    cli.add_flag(parser, "lengths", Annotated[int, Range(1, 1000)], 23, "How many, .02 to .24")
    cli.add_flag(parser, "dtype", Literal["float32", "bfloat16"], "float32", "Of the snapshots")
    cli.add_config(parser, required=False)
    cli.run(_measure, parser)


def _measure(args):
    if shutil.disk_usage(tempfile.gettempdir()).free < 2**30:
        raise UserError("The folder for temporary files is full: set TMPDIR to another.")
    config = args.config or digits.get_config()
    lengths = np.linspace(0.02, 0.24, args.lengths).round(4).tolist()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(config, folder, args.snapshots, args.dtype)
        before, start = peak_mib(), time.perf_counter()
        plan = posthoc_ema.plan(run.folder, lengths)
        posthoc_ema.check(plan)
        planned = time.perf_counter()
        totals = jax.block_until_ready(posthoc_ema.rebuild(plan, posthoc_ema.template(plan)))
        rebuilt, peak = time.perf_counter(), peak_mib()
        posthoc_ema.keep(plan, totals)
        kept = time.perf_counter()
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(totals[0])) / 2**20
    print(
        f"{len(lengths)} averages of {one:.1f} MiB from {args.snapshots} snapshots in "
        f"{args.dtype}: {kept - start:.1f} s ({planned - start:.1f} planning, "
        f"{rebuilt - planned:.1f} rebuilding, {kept - rebuilt:.1f} keeping); peak memory "
        f"{before:.0f} MiB before, {peak:.0f} MiB after rebuilding, of which the averages are "
        f"{one * len(lengths):.0f}."
    )


if __name__ == "__main__":
    main()
