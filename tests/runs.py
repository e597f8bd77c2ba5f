"""Run folders of arbitrary parameters, and jobs that sample them."""

import json
import os

import jax
import numpy as np
from etils import epath

from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import ADM, ClassifierConfig, Label
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.trained_model import load
from tests import tiny

CLASSIFIER = {"channels": 32, "channel_mult": (1,), "num_res_blocks": 1, "head_channels": 32}


def random_params(network, seed=0):
    """Parameters without zeros, so that every part of the network matters."""
    leaves, tree = jax.tree.flatten(network.shapes)
    random = np.random.RandomState(seed)
    return tree.unflatten(
        [np.asarray(random.standard_normal(leaf.shape) * 0.1, leaf.dtype) for leaf in leaves]
    )


def make_run(folder, config, seed=0, steps=(5, 10), change=lambda params: params):
    """A run with a snapshot of arbitrary parameters at each of `steps`; returns its folder."""
    run = Run(epath.Path(folder))
    run.write_config(config)
    store = Checkpointer(run.snapshots)
    for step in steps:
        params = change(random_params(factory.network(config), seed=seed + step))
        store.save(step, {"ema": {"0.995": params}}, {"ema": ["0.995"]})
    store.close()
    return str(folder)


def unlabelled(**overrides):
    """The tiny config without conditions."""
    return tiny.config(model__conditions=(), diffusion__condition_dropout=0.0, **overrides)


def classifier(pool="attention", attention_resolutions=(8,), diffusion=None, **overrides):
    """The tiny config of a classifier of noisy images."""
    model = ClassifierConfig(
        pool=pool, attention_resolutions=attention_resolutions, label=Label(10), **CLASSIFIER
    )
    return tiny.config(model=model, diffusion=diffusion or ADM(num_timesteps=20), **overrides)


def sample(out, model, n, shard=None, **request):
    """({array's name: array}, manifest) of a job that samples a model, or a run, into a folder."""
    model = load(model) if isinstance(model, (str, os.PathLike)) else model
    run_sampling.run(model.job(n, **request), epath.Path(out), shard)
    (file,) = epath.Path(out).glob("samples_*.npz")
    with np.load(file) as arrays:
        return dict(arrays), json.loads((out / "manifest.json").read_text())
