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

import jax
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from configs import digits
from jaxdiff import cli, factory
from jaxdiff.data.source import open_split
from jaxdiff.training import loop
from jaxdiff.training.ema import profiles
from jaxdiff.training.objective import denoising
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import init_state
from jaxdiff.training.step import make_step, zero_sums

FEW, MANY = 50, 250
ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each is timed.")


def config_of(num_steps):
    config = digits.get_config()
    config.training.num_steps = num_steps
    for period in ("checkpoint_every", "snapshot_every", "preview_every"):
        config.training[period] = 10**6
    return config


def time_loop(num_steps):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        loop.train(config_of(num_steps), folder)
        return time.perf_counter() - start


def bare_step():
    """A function that takes so many bare steps and returns the seconds of one."""
    config = config_of(MANY)
    network, process = factory.network(config), factory.process(config)
    objective = denoising(network, process, config.model.dropout)
    optimizer = make_optimizer(config.training)
    state = jax.jit(
        lambda: init_state(network, optimizer, profiles(config.training), jax.random.key(0))
    )()
    step = jax.jit(make_step(objective, process, optimizer, config), donate_argnums=0)
    source = open_split(config.data, "train").in_memory()
    batch = jax.device_put(source.fetch(range(config.training.batch_size)))
    state, sums = step(state, zero_sums(objective.terms), batch)
    held = {"state": state, "sums": sums}

    def run(count):
        jax.block_until_ready(held)
        start = time.perf_counter()
        for _ in range(count):
            held["state"], held["sums"] = step(held["state"], held["sums"], batch)
        jax.block_until_ready(held)
        return (time.perf_counter() - start) / count

    return run


def main(argv):
    del argv
    cli.use_compilation_cache()
    run_bare = bare_step()
    time_loop(FEW)  # compiles
    run_bare(FEW)
    ratios, bares, loops = [], [], []
    for _ in range(ROUNDS.value):
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
    app.run(main)
