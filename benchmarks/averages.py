"""What tracking averages costs: a training step of the digits with none, one, two.

    python benchmarks/averages.py

Steps of each kind are timed in turn, `--steps` at a time, so that what else the machine does falls
on all of them. Prints medians, and the ratios to a step that tracks none.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax

from configs import digits_edm
from jaxdiff import cli
from jaxdiff.config import Range, import_modules, replaced
from jaxdiff.data.source import open_split
from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task

KINDS = {"none": (), "one": (0.05,), "two": (0.05, 0.1)}


def timer(config, lengths, batch, steps):
    """A function that takes steps which track averages of these lengths: the seconds of one."""
    task = Task.of(replaced(config, {"training.power_ema": lengths or (0.05,)}))
    state = jax.jit(task.init)()
    if not lengths:
        state = dataclasses.replace(state, ema={})
    held = {"state": state, "sums": zero_sums(task.objective.terms)}
    step = jax.jit(summing_step(task), donate_argnums=0)

    def run():
        jax.block_until_ready(held)
        start = time.perf_counter()
        for _ in range(steps):
            held["state"], held["sums"] = step(held["state"], held["sums"], batch)
        jax.block_until_ready(held)
        return (time.perf_counter() - start) / steps

    return run


def main():
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "rounds", Annotated[int, Range(3, 1000)], 15, "How often each is timed")
    cli.add_flag(parser, "steps", Annotated[int, Range(1, 1000)], 10, "In a round")
    cli.run(_measure, parser)


def _measure(args):
    config = digits_edm.get_config()
    import_modules(["studies.digits.data"])
    source = open_split(config.data, "train", config.model.conditions).in_memory()
    batch = jax.device_put(source.fetch(range(config.training.batch_size)))
    timers = {name: timer(config, lengths, batch, args.steps) for name, lengths in KINDS.items()}
    for run in timers.values():
        run()  # compiles
    times = {name: [] for name in KINDS}
    for _ in range(args.rounds):
        for name, run in timers.items():
            times[name].append(run())
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["none"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:>4} averages: {1e3 * statistics.median(values):.1f} ms a step, "
            f"{middle:.3f} of none ({low:.3f} to {high:.3f}, the middle half)"
        )


if __name__ == "__main__":
    main()
