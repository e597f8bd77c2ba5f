"""Runs of EDM's process that keep two power-function averages, of arbitrary parameters."""

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run
from tests import tiny
from tests.models.test_unet import random_params

LENGTHS = (0.05, 0.1)
STEPS = (5, 10)


def config(**overrides):
    """The tiny config under EDM's process, sampled with three steps of DPM-Solver++."""
    fields = {
        "diffusion__process": "edm",
        "training__power_ema": LENGTHS,
        "sampling__sampler": "dpmpp",
        "sampling__steps": "3",
    }
    return tiny.config(**{**fields, **overrides})


def make(folder, seed=0, **overrides):
    """A run with a snapshot at each of STEPS, whose averages are all different."""
    run, values = Run(folder), config(**overrides)
    run.folder.mkdir(parents=True)
    run.config_file.write_text(config_lib.to_json(values))
    store, names = Store(run.snapshots), [profile_name(length) for length in LENGTHS]
    for step in STEPS:
        averages = {
            name: random_params(factory.network(values), seed=100 * seed + 10 * step + number)
            for number, name in enumerate(names)
        }
        store.save(step, {"ema": averages}, {"ema": names})
    store.close()
    return str(folder)
