"""One side of benchmarks/evaluation_metrics.py, in its own process: a metric of stored features.

    python benchmarks/peer_metrics.py '{"contender": "torch-fidelity", "fake": FILE, "real": FILE}'

The features are read from npy files when they are needed: a process's largest memory is that of
one metric, with its features and its libraries.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests


def jaxdiff(spec):
    """{metric: function(fake file, real file) -> list of values}."""
    import jax

    from jaxdiff.evaluation.metrics import kid, neighbours
    from jaxdiff.evaluation.metrics.frechet import Moments, distance

    dot = jax.jit(lambda a, b: jax.numpy.dot(a, b.T, precision=jax.lax.Precision.HIGHEST))

    def products(fake, real):
        """What the neighbours multiply at least: all pairs of blocks of their size, and no more."""
        sets = [blocks(np.load(file)) for file in (fake, real)]
        for a, b in ((0, 0), (1, 1), (0, 1)):
            for x in sets[a]:
                for y in sets[b]:
                    dot(x, y).block_until_ready()
        return []

    def blocks(rows):
        number = -(-len(rows) // neighbours.BLOCK)
        return [jax.device_put(part) for part in np.array_split(rows, number)]

    return jax.__version__, {
        "fd": lambda fake, real: [distance(Moments.of(np.load(fake)), Moments.of(np.load(real)))],
        "kid": lambda fake, real: kid.kid(np.load(real), np.load(fake)),
        "neighbours": lambda fake, real: neighbours.precision_recall(np.load(real), np.load(fake)),
        "products": products,
    }


def torch_fidelity(spec):
    """The same of torch-fidelity, in its order of arguments: the samples first."""
    import torch
    import torch_fidelity
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])

    def read(file, dtype=np.float32):
        return torch.from_numpy(np.load(file).astype(dtype, copy=False))

    def fd(fake, real):
        statistics = [metric_fid.fid_features_to_statistics(read(file)) for file in (fake, real)]
        return list(metric_fid.fid_statistics_to_metric(*statistics, verbose=False).values())

    def kid(fake, real, dtype=np.float32):
        options = {"kid_subsets": 100, "kid_subset_size": 1000, "rng_seed": 2020}
        sets = [read(file, dtype) for file in (fake, real)]
        return list(metric_kid.kid_features_to_metric(*sets, **options, verbose=False).values())

    def neighbours(fake, real):
        options = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": True}
        found = metric_prc.prc_features_to_metric(read(fake), read(real), **options, verbose=False)
        return list(found.values())[:2]

    return torch_fidelity.__version__, {
        "fd": fd,
        "kid": kid,
        "kid in float64": lambda fake, real: kid(fake, real, np.float64),
        "neighbours": neighbours,
    }


def measure(functions, metric, fake, real):
    """The action: {values, wall_s, cpu_s, peak_gb}."""
    wall, cpu = time.perf_counter(), time.process_time()
    values = functions[metric](fake, real)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"values": list(values), "wall_s": wall, "cpu_s": cpu, "peak_gb": peak}


def main():
    spec = json.loads(sys.argv[1])
    found = {"jaxdiff": jaxdiff, "torch-fidelity": torch_fidelity}[spec["contender"]]

    def ready():
        version, functions = found(spec)
        return {"version": f"{spec['contender']} with {version}"}, functions

    answer_requests(ready, {"measure": measure})


if __name__ == "__main__":
    main()
