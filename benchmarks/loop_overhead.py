"""What the training loop costs beside its jitted step, saves and previews apart.

    python benchmarks/loop_overhead.py

Runs the real loop twice in turn, over a few and over many steps, so that what a run does once
(compiling, the final save) cancels in the difference; and the bare jitted step, fed the same batch
again and again, between them. Prints the median time of a step each way, and their ratio.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax

from configs import digits
from jaxdiff import cli
from jaxdiff.config import Range, import_modules, replaced
from jaxdiff.data.source import open_split
from jaxdiff.training import loop
from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task

FEW, MANY = 50, 250
PERIODS = ("checkpoint_every", "snapshot_every", "preview_every")


def config_of(num_steps):
    """The digits' config with so many steps, and nothing beside them."""
    never = {f"training.{period}": 10**6 for period in PERIODS}
    return replaced(digits.get_config(), {"training.num_steps": num_steps, **never})


def time_loop(num_steps):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        loop.train(config_of(num_steps), folder)
        return time.perf_counter() - start


def bare_step():
    """A function that takes so many bare steps and returns the seconds of one."""
    config = config_of(MANY)
    task = Task.of(config)
    step = jax.jit(summing_step(task), donate_argnums=0)
    import_modules(["studies.digits.data"])
    source = open_split(config.data, "train", config.model.conditions).in_memory()
    batch = jax.device_put(source.fetch(range(config.training.batch_size)))
    state, sums = step(jax.jit(task.init)(), zero_sums(task.objective.terms), batch)
    held = {"state": state, "sums": sums}

    def run(count):
        jax.block_until_ready(held)
        start = time.perf_counter()
        for _ in range(count):
            held["state"], held["sums"] = step(held["state"], held["sums"], batch)
        jax.block_until_ready(held)
        return (time.perf_counter() - start) / count

    return run


def main():
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "rounds", Annotated[int, Range(1, 1000)], 3, "How often each is timed")
    cli.run(_measure, parser)


def _measure(args):
    cli.start_jax(False)
    run_bare = bare_step()
    time_loop(FEW)  # compiles
    run_bare(FEW)
    ratios, bares, loops = [], [], []
    for _ in range(args.rounds):
        before = run_bare((MANY - FEW) // 2)
        few, many = time_loop(FEW), time_loop(MANY)
        after = run_bare((MANY - FEW) // 2)
        bares.append((before + after) / 2)
        loops.append((many - few) / (MANY - FEW))
        ratios.append(loops[-1] / bares[-1])
    print(f"bare step {statistics.median(bares) * 1e3:.1f} ms")
    print(f"in the loop {statistics.median(loops) * 1e3:.1f} ms")
    print(f"ratio {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
