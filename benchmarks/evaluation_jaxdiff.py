"""This project's side of benchmarks/evaluation_networks.py, in a process of its own.

    python benchmarks/evaluation_jaxdiff.py '{"networks": [...], "folder": PATH, ...}'

Weights are made up: of each tensor from its name, so that features keep their size through the
layers. Those of Inception are written as {folder}/inception-2015.pth, which the other side reads.
"""

import json
import pathlib
import sys
import zlib

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests, both_seconds

MADE_UP = "{name}.pth"


def made_up(shapes, gain):
    """{name: float32 array}: of variance gain / fan-in, and batch norms that change little."""
    found = {}
    for name, shape in shapes.items():
        r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            array = r * np.sqrt(gain / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            array = 1 + 0.1 * np.abs(r)
        else:
            array = 0.1 * r + name.endswith(("weight", "gamma"))
        # Made-up features of images differ little, so classes are far apart instead.
        found[name] = (30 * array if name == "fc.weight" else array).astype(np.float32)
    return found


def opened(name, folder):
    """An Extractor of made-up weights, which are written to the folder."""
    from jaxdiff.evaluation.extractors import KINDS, open_extractor
    from jaxdiff.tensor_files import torch_file

    kind, _, _ = name.partition(":")
    path = pathlib.Path(folder) / MADE_UP.format(name=kind)
    if not path.exists():
        shapes = KINDS[kind].network.shapes
        torch_file.write(path, made_up(shapes, 1 if kind.startswith("dinov2") else 2))
    return open_extractor(name, path)


def metrics(real, fake, logits):
    """{name: value} of features and logits, by torch-fidelity's settings and by prdc's."""
    from jaxdiff.evaluation.metrics import diversity, inception_score, kid, neighbours

    found = {"FID": distance(real, fake)}
    found["KID"], found["KID deviation"] = kid.kid(real, fake, size=len(real) // 2)
    found["IS"], found["IS deviation"] = inception_score.ten_splits(logits)
    found["precision"], found["recall"] = neighbours.precision_recall(real, fake, k=3)
    open_balls = neighbours.precision_recall(real, fake, k=5, ball="open")
    found["precision, open ball"], found["recall, open ball"] = open_balls
    found["density"], found["coverage"] = neighbours.density_coverage(real, fake, k=5)
    return {**found, "Vendi": diversity.vendi(fake)}


def distance(real, fake):
    """The Frechet distance of two sets of features."""
    from jaxdiff.evaluation.metrics.frechet import Moments
    from jaxdiff.evaluation.metrics.frechet import distance as frechet_distance

    return frechet_distance(Moments.of(real), Moments.of(fake))


def ready(spec):
    """What `answer_requests` asks for."""
    import jax

    images = np.load(spec["images"])
    real, fake = images["real"], images["fake"]
    inception = opened("inception-2015", spec["folder"])
    functions = {}
    for name in spec["networks"]:
        network = opened(name, spec["folder"])
        functions[name] = lambda network=network: network(real[: spec["batch"]])

    def values():
        of_real, of_fake = inception(real), inception(fake)
        found = metrics(of_real["features"], of_fake["features"], of_fake["logits"])
        other = opened("inception-2015:pytorch-fid", spec["folder"])
        of_real, of_fake = other(real), other(fake)
        return {**found, "FID, pytorch-fid": distance(of_real["features"], of_fake["features"])}

    functions["values"] = values
    device = jax.devices()[0]
    return {"version": f"jax {jax.__version__}", "device": device.device_kind}, functions


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {"time": both_seconds, "values": lambda functions: functions["values"]()},
    )
