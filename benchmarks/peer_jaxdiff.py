"""The JAX side of benchmarks/peers.py, in a process of its own.

python benchmarks/peer_jaxdiff.py '{"options": {...}, "batch_size": 32}'
"""

import json
import pathlib
import sys

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


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {"time": cpu_seconds, "compare": largest_difference},
    )
