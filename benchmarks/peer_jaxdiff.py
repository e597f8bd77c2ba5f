"""The JAX side of benchmarks/peers.py, in a process of its own.

python benchmarks/peer_jaxdiff.py '{"options": {...}, "batch_size": 32}'
"""

import collections
import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests, cpu_seconds


def config_of(options, batch_size):
    """The RunConfig that trains guided-diffusion's UNetModel of these options as it does."""
    from jaxdiff.config import ADM, DataConfig, RunConfig, TrainingConfig
    from jaxdiff.interop.openai import unet_network

    network = unet_network(**options)
    side, channels = options["image_size"], options["in_channels"]
    return RunConfig(
        data=DataConfig(name="made_up", image_size=side, channels=channels),
        model=network.config,
        diffusion=ADM(schedule="cosine", variance="fixed_large", loss="simple"),
        training=TrainingConfig(
            batch_size=batch_size, learning_rate=1e-4, weight_decay=0.0, clip_norm=0.0, ema=0.9999
        ),
    )


def ready(spec):
    """What `answer_requests` asks for."""
    import jax

    from benchmarks import network

    config = config_of(spec["options"], spec["batch_size"])
    (step, (*held, batch)), (forward, given) = (
        make(config, values=True) for make in (network.step_of, network.forward_of)
    )
    step, forward = step.lower(*held, batch).compile(), forward.lower(*given).compile()

    def take_step():
        held[:] = jax.block_until_ready(step(*held, batch))

    functions = {
        "step": take_step,
        "forward": lambda: jax.block_until_ready(forward(*given)),
        "options": lambda: spec["options"],
        "compiled": lambda: {"step": step, "forward": forward},
    }
    parameters = sum(leaf.size for leaf in jax.tree.leaves(held[0].params))
    return {"parameters": parameters, "version": f"jax {jax.__version__}"}, functions


def largest_difference(functions, file):
    """Of the outputs of the network with the weights in an npz file, from the output there."""
    import numpy as np

    from jaxdiff.interop import openai

    with np.load(file) as arrays:
        state = {n[6:]: arrays[n] for n in arrays.files if n.startswith("state/")}
        x, t, labels, expected = (arrays[n] for n in ("x", "t", "labels", "output"))
    apply, params = openai.unet(state, **functions["options"]())
    found = apply(params, x.transpose(0, 2, 3, 1), t, labels).transpose(0, 3, 1, 2)
    return {
        "difference": float(np.abs(found - expected).max()),
        "largest": float(np.abs(expected).max()),
    }


def profile(functions, name, calls):
    """Where a program's time goes, of each operation the least wall time of several calls.

    Returns:
      A dict: kinds, a list of (kind, seconds); operations, a list of (name, seconds, what it
      computes); total_s, the sum. A fusion counts as the slowest kind that it holds.
    """
    import jax

    functions[name]()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                functions[name]()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        seconds = least_seconds(jax.profiler.ProfileData.from_file(str(file)))
    described = instructions(functions["compiled"]()[name].as_text())
    kinds, operations = collections.Counter(), []
    for operation, duration in seconds.items():
        kind, what = described.get(operation, (operation, ""))
        kinds[kind] += duration
        operations.append((operation, duration, what))
    operations.sort(key=lambda each: -each[1])
    return {
        "kinds": kinds.most_common(),
        "operations": operations,
        "total_s": sum(seconds.values()),
    }


def least_seconds(data):
    """{operation: seconds} of a ProfileData, the least of the runs in it."""
    runs = collections.defaultdict(collections.Counter)
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    runs[stats["hlo_op"]][stats["run_id"]] += event.duration_ns / 1e9
    return {operation: min(times.values()) for operation, times in runs.items()}


# What a fusion counts as: the first of these that it holds.
MAIN = ("convolution", "dot", "reduce", "scatter", "exponential", "tanh", "transpose", "copy")
LINE = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\(")


def instructions(text):
    """{name: (kind, description)} of the instructions of a compiled program's text."""
    computations, inside = collections.defaultdict(list), ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
        elif match := LINE.match(line):
            computations[inside].append((*match.groups(), line))
    found = {}
    for name, shape, operation, line in (each for c in computations.values() for each in c):
        path, called = _path(line), re.search(r"calls=%?([\w.-]+)", line)
        held = computations[called[1]] if called else []
        for main in MAIN:
            if main in (names := [each[2] for each in held]):
                operation = main
                path = _path(held[names.index(main)][3]) or path
                break
        part = "backward" if "transpose(" in path else "forward and other"
        found[name] = (f"{operation}, {part}", f"{re.sub(r'{[^}]*}', '', shape)}  {path}")
    return found


def _path(line):
    found = re.search(r'op_name="([^"]*)"', line)
    return found[1] if found else ""


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {"time": cpu_seconds, "compare": largest_difference, "profile": profile},
    )
