"""What guidance costs beside the networks that it evaluates, on the model of the digits.

    python benchmarks/guidance.py

Times every method's sampling, and in turn with it each network's own evaluations (a classifier's is
its forward and backward pass), and prints the ratio of a method's time to the sum of its networks'
evaluations; CADS against plain CFG; an interval's saving against what its evaluations promise; and
how many programs a second call with other weights compiles. The networks are untrained: what they
say does not matter here.
"""

import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import digits, digits_classifier, digits_small
from jaxdiff import cli, factory
from jaxdiff import config as config_lib
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.run import Run
from jaxdiff.diffusion.denoiser import Condition, Level
from jaxdiff.guidance.classifier import label_gradient
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.trained_model import applied

BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Samples at once.", lower_bound=1)
STEPS = flags.DEFINE_string("steps", "18", "Of Heun's method.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each is timed.", lower_bound=1)
TOGETHER = flags.DEFINE_bool("together", None, "One batch for both labels; default: as sample.py.")

REPEATS = 16  # evaluations of a network in one timing


def methods(guide, classifier):
    """{method: what it sets of a Request}."""
    return {
        "no guidance": {},
        "CFG": {"cfg": 2.0},
        "CFG in (.19, 1.61]": {"cfg": 2.0, "interval": (".19,1.61",)},
        "CFG, linear": {"cfg": 2.0, "schedule": ("linear",)},
        "CFG + CADS": {"cfg": 2.0, "cads": ".6,.9,1"},
        "CFG + APG": {"cfg": 2.0, "apg": "0,-.5,2"},
        "CFG + rescale": {"cfg": 2.0, "rescale": 0.7},
        "ICG": {"cfg": 2.0, "icg": True},
        "autoguidance": {"guide": (guide,), "weight": (2.0,)},
        "autoguidance + CFG": {"guide": (guide,), "weight": (2.0,), "cfg": 2.0},
        "classifier": {"classifier": classifier},
    }


def untrained(folder, config):
    """A run's folder with one snapshot of fresh parameters."""
    run = Run(folder)
    folder.mkdir()
    run.config_file.write_text(config_lib.to_json(config))
    store = Store(run.snapshots)
    profile = str(config.training.ema)
    params = factory.network(config).init(jax.random.key(0))
    store.save(1, {"ema": {profile: params}}, {"ema": [profile]})
    store.close()
    return str(folder)


def seconds(function):
    """Of one call, waiting for its results."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def evaluations(prepared):
    """{network: a function that evaluates it REPEATS times, as the sampling loop does}."""
    params = prepared.params()
    generate, size = prepared.generate, BATCH_SIZE.value
    networks = {"model": (generate.network, generate.process, params.main)}
    for model, guide, own in zip(
        prepared.method.guides, generate.guides, params.guides, strict=True
    ):
        networks[str(model)] = (*guide, own)
    labels = jnp.zeros(size, jnp.int32)
    level = Level(jnp.ones(()), jnp.ones(()))
    x = jnp.zeros((size, *generate.shape))
    found = {}
    for name, (network, process, own) in networks.items():

        def denoise(own, x, network=network, process=process):
            condition = Condition(network.embed(own, labels))
            return process.denoiser(applied(network, own))(x, level, condition).x0

        found[name] = _repeated(denoise, own, x)
    if generate.classifier is not None:

        def gradient(own, x):
            classify = generate.process.classifier(partial(generate.classifier.apply, own))
            return label_gradient(classify, labels)(x, level)

        found["classifier"] = _repeated(gradient, params.classifier, x)
    return found


def _repeated(function, params, x):
    @jax.jit
    def run(params, x):
        return jax.lax.fori_loop(0, REPEATS, lambda _, x: function(params, x), x)

    return lambda: run(params, x)


def other_weights(prepared):
    """The same job with other weights and scales, off where they were."""
    strength = prepared.method.strength
    weights = np.where(strength.weights == 1, 1, strength.weights + np.float32(0.5))
    scales = None if strength.scales is None else strength.scales * np.float32(2)
    changed = dataclasses.replace(strength, weights=weights, scales=scales)
    return dataclasses.replace(
        prepared, method=dataclasses.replace(prepared.method, strength=changed)
    )


def measure(requests):
    """{method: (seconds of sampling, seconds of its networks alone, programs compiled anew)}."""
    jobs = {name: run_sampling.prepare(request) for name, request in requests.items()}
    numbers = np.arange(BATCH_SIZE.value)
    networks, samplers, compiled = {}, {}, {}
    for name, prepared in jobs.items():
        networks |= {n: f for n, f in evaluations(prepared).items() if n not in networks}
        samplers[name] = partial(prepared.samples, prepared.params(), 0, numbers, quiet=True)
        samplers[name]()
        programs = prepared.generate._advance._cache_size()
        other_weights(prepared).samples(prepared.params(), 0, numbers, quiet=True)
        compiled[name] = prepared.generate._advance._cache_size() - programs
    for function in networks.values():
        jax.block_until_ready(function())
    took, own = {name: [] for name in jobs}, {name: [] for name in jobs}
    for _ in range(ROUNDS.value):
        for name, prepared in jobs.items():
            # Each network just before the method that evaluates it, as machines drift.
            spent = prepared.evaluations.items()
            own[name].append(sum(k * seconds(networks[n]) / REPEATS for n, k in spent))
            took[name].append(seconds(samplers[name]))
    return {name: (took[name], own[name], compiled[name]) for name in jobs}, jobs


def ratio(a, b):
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def report(results, jobs):
    print("| method | evaluations | seconds | over its networks' own | compiled anew |")
    print("| --- | --- | --- | --- | --- |")
    for name, (took, own, compiled) in results.items():
        spent = sum(jobs[name].evaluations.values())
        print(
            f"| {name} | {spent} | {statistics.median(took):.3f} | {ratio(took, own):.3f} "
            f"| {compiled} |"
        )
    plain, cfg, interval = (results[n][0] for n in ("no guidance", "CFG", "CFG in (.19, 1.61]"))
    print(f"CADS + CFG over CFG: {ratio(results['CFG + CADS'][0], cfg):.3f}")
    saved = [(c - i) / (c - p) for p, c, i in zip(plain, cfg, interval, strict=True)]
    counts = [jobs[n].evaluations["model"] for n in ("no guidance", "CFG", "CFG in (.19, 1.61]")]
    promised = (counts[1] - counts[2]) / (counts[1] - counts[0])
    print(
        f"The interval saves {statistics.median(saved):.3f} of CFG's extra time; its evaluations "
        f"promise {promised:.3f}."
    )


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = untrained(folder / "model", digits.get_config())
        guide = untrained(folder / "guide", digits_small.get_config())
        classifier = digits_classifier.get_config()
        classifier.diffusion.from_run = ""
        classifier = untrained(folder / "classifier", classifier)
        common = {"model": model, "out": "", "sampler": "heun", "steps": STEPS.value}
        common |= {"batch_size": BATCH_SIZE.value, "together": TOGETHER.value}
        requests = {
            name: run_sampling.Request(**common, **fields)
            for name, fields in methods(guide, classifier).items()
        }
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {BATCH_SIZE.value}")
        report(*measure(requests))


if __name__ == "__main__":
    cli.run(main)
