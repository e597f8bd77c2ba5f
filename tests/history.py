"""Runs of EDM's process that keep two power-function averages, of arbitrary parameters."""

from etils import epath

from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import EDM, DPMpp, replaced
from tests import tiny
from tests.runs import random_params

LENGTHS = (0.05, 0.1)
STEPS = (5, 10)


def config(**overrides):
    """The tiny config under EDM's process, sampled with three steps of DPM-Solver++."""
    base = tiny.config(
        diffusion=EDM(condition_dropout=0.1),
        sampling=DPMpp(steps=3),
        training__power_ema=LENGTHS,
    )
    return replaced(base, {name.replace("__", "."): value for name, value in overrides.items()})


def make(folder, seed=0, **overrides):
    """A run with a snapshot at each of STEPS, whose averages are all different."""
    run, values = Run(epath.Path(folder)), config(**overrides)
    run.write_config(values)
    store, names = Checkpointer(run.snapshots), [profile_name(length) for length in LENGTHS]
    for step in STEPS:
        averages = {
            name: random_params(factory.network(values), seed=100 * seed + 10 * step + number)
            for number, name in enumerate(names)
        }
        store.save(step, {"ema": averages}, {"ema": names})
    store.close()
    return str(folder)
