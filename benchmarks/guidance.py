"""What guidance costs beside the networks that it evaluates, on the model of the digits.

    python benchmarks/guidance.py

Times every method's sampling, and in turn with it each network's own evaluations (a classifier's is
its forward and backward pass), and prints the ratio of a method's time to the sum of its networks'
evaluations; CADS against plain CFG; an interval's saving against what its evaluations promise; and
how many programs a second call with other weights compiles. The networks are untrained: what they
predict does not matter here.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from functools import partial
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff
from configs import digits, digits_classifier, digits_small
from jaxdiff import cli
from jaxdiff.config import (
    ADM,
    APG,
    CADS,
    CFG,
    ICG,
    Autoguidance,
    ClassifierGuidance,
    Heun,
    Range,
    Schedule,
    replaced,
)
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.sampling.pipeline import _advance

REPEATS = 16  # evaluations of a network in one timing


def methods(guide, classifier):
    """{method: what it sets of a request}."""
    auto, cfg = Autoguidance(guide, 2.0), CFG(2.0)
    return {
        "no guidance": {},
        "CFG": {"guidance": cfg},
        "CFG in (.19, 1.61]": {"guidance": CFG(2.0, (0.19, 1.61))},
        "CFG, linear": {"guidance": CFG(2.0, schedule=Schedule("linear"))},
        "CFG + CADS": {"guidance": cfg, "cads": CADS(0.6, 0.9, 1.0)},
        "CFG + APG": {"guidance": cfg, "combiner": APG(0.0, -0.5, 2.0)},
        "CFG + rescale": {"guidance": cfg, "rescale": 0.7},
        "ICG": {"guidance": ICG(2.0)},
        "autoguidance": {"guidance": auto},
        "autoguidance + CFG": {"guidance": [auto, cfg]},
        "classifier": {"guidance": ClassifierGuidance(classifier)},
    }


def untrained(config):
    """A model with initial parameters."""
    params = jaxdiff.network(config).init(jax.random.key(0))
    return jaxdiff.TrainedModel(config=config, parameters=params)


def seconds(function):
    """Of one call, waiting for its results."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def evaluations(job, size):
    """{network: a function that evaluates it REPEATS times, as the sampling loop does}."""
    params, cond = job.params(), {"label": jnp.zeros(size, jnp.int32)}
    pipeline, level = job.pipeline, Level(jnp.ones(()), jnp.ones(()))
    x = jnp.zeros((size, *pipeline.network.signature.shape))
    networks = {"model": (pipeline.network, pipeline.process, params.main)}
    for model, guide, own in zip(job.method.guides, pipeline.guides, params.guides, strict=True):
        networks[str(model)] = (*guide[:2], own)
    found = {}
    for name, (network, process, own) in networks.items():

        def denoise(own, x, network=network, process=process):
            denoiser = process.denoiser(partial(network.apply, own))
            return denoiser(x, level, network.embed(own, cond)).x0

        found[name] = _repeated(denoise, own, x)
    if pipeline.classifier is not None:

        def gradient(own, x):
            classify = pipeline.process.classifier(partial(pipeline.classifier.apply, own))
            return label_gradient(classify, cond["label"])(x, level)

        found["classifier"] = _repeated(gradient, params.classifier, x)
    return found


def _repeated(function, params, x):
    @jax.jit
    def run(params, x):
        return jax.lax.fori_loop(0, REPEATS, lambda _, x: function(params, x), x)

    return lambda: run(params, x)


def other_weights(job):
    """The same job with other weights and scales, off where they were."""
    params = job.method.params
    weights = np.where(params.weights == 1, 1, params.weights + np.float32(0.5))
    scales = None if params.scales is None else params.scales * np.float32(2)
    changed = dataclasses.replace(params, weights=weights, scales=scales)
    return dataclasses.replace(job, method=dataclasses.replace(job.method, params=changed))


def measure(jobs, size, rounds):
    """{method: (seconds of sampling, seconds of its networks alone, programs compiled again)}."""
    numbers = np.arange(size)
    networks, samplers, compiled = {}, {}, {}
    for name, job in jobs.items():
        networks |= {n: f for n, f in evaluations(job, size).items() if n not in networks}
        samplers[name] = partial(job.sample, job.params(), numbers, size)
        samplers[name]()
        programs = _advance._cache_size()
        other_weights(job).sample(job.params(), numbers, size)
        compiled[name] = _advance._cache_size() - programs
    for function in networks.values():
        jax.block_until_ready(function())
    took, own = {name: [] for name in jobs}, {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            # Each network just before the method that evaluates it, as machines drift.
            counts = job.evaluations.items()
            own[name].append(sum(k * seconds(networks[n]) / REPEATS for n, k in counts))
            took[name].append(seconds(samplers[name]))
    return {name: (took[name], own[name], compiled[name]) for name in jobs}


def ratio(a, b):
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def report(results, jobs):
    """Prints the table."""
    print("| method | evaluations | seconds | over its networks' own | compiled again |")
    print("| --- | --- | --- | --- | --- |")
    for name, (took, own, compiled) in results.items():
        count = sum(jobs[name].evaluations.values())
        print(
            f"| {name} | {count} | {statistics.median(took):.3f} | {ratio(took, own):.3f} "
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
    parser = cli.Parser(__doc__)
    positive = Annotated[int, Range(1, 10_000)]
    cli.add_flag(parser, "batch_size", positive, 128, "Samples at once")
    cli.add_flag(parser, "steps", positive, 18, "Of Heun's method")
    cli.add_flag(parser, "rounds", positive, 7, "How often each is timed")
    cli.add_flag(parser, "together", bool, None, "One batch for both conditions of a network")
    cli.run(_measure, parser)


def _measure(args):
    model, guide = untrained(digits.get_config()), untrained(digits_small.get_config())
    config = replaced(digits_classifier.get_config(), {"diffusion": ADM()})
    common = {"sampler": Heun(steps=args.steps), "together": args.together}
    jobs = {
        name: model.job(args.batch_size, batch_size=args.batch_size, **common, **request)
        for name, request in methods(guide, untrained(config)).items()
    }
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {args.batch_size}")
    report(measure(jobs, args.batch_size, args.rounds), jobs)


if __name__ == "__main__":
    main()
