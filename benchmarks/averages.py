"""What tracking averages costs: a training step of the digits with none, one, two.

    python benchmarks/averages.py

Steps of each kind are timed in turn, `--steps` at a time, so that what else the machine does falls
on all alike. Prints medians, and the ratios to a step that tracks none.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
from absl import flags

from configs import digits_edm
from jaxdiff import cli, factory
from jaxdiff.data.source import open_split
from jaxdiff.training.ema import profiles
from jaxdiff.training.objective import denoising
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import init_state
from jaxdiff.training.step import make_step, zero_sums

ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed.", lower_bound=3)
STEPS = flags.DEFINE_integer("steps", 10, "In a round.", lower_bound=1)
KINDS = {"none": (), "one": (0.05,), "two": (0.05, 0.1)}


def timer(config, lengths, batch):
    """A function that takes steps which track averages of these lengths: the seconds of one."""
    config.training.power_ema = lengths or (0.05,)
    network, process = factory.network(config), factory.process(config)
    objective, optimizer = denoising(network, process, 0.0), make_optimizer(config.training)
    names = list(profiles(config.training)) if lengths else []
    held = {
        "state": jax.jit(lambda: init_state(network, optimizer, names, jax.random.key(0)))(),
        "sums": zero_sums(objective.terms),
    }
    step = jax.jit(make_step(objective, process, optimizer, config), donate_argnums=0)

    def run():
        jax.block_until_ready(held)
        start = time.perf_counter()
        for _ in range(STEPS.value):
            held["state"], held["sums"] = step(held["state"], held["sums"], batch)
        jax.block_until_ready(held)
        return (time.perf_counter() - start) / STEPS.value

    return run


def main():
    config = digits_edm.get_config()
    source = open_split(config.data, "train").in_memory()
    batch = jax.device_put(source.fetch(range(config.training.batch_size)))
    timers = {name: timer(config, lengths, batch) for name, lengths in KINDS.items()}
    for run in timers.values():
        run()  # compiles
    times = {name: [] for name in KINDS}
    for _ in range(ROUNDS.value):
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
    cli.run(main)
