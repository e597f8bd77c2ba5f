"""How well a noisy classifier reads images that it has not seen, by how noisy they are.

    python -m jaxdiff.evaluation.classifier --model runs/digits_classifier

Each image of the split is noised `repeats` times, at timesteps drawn uniformly. The table has a row
for each quarter of the timesteps, the cleanest first.
"""

import jax
from absl import flags

from jaxdiff import build, cli
from jaxdiff.checkpoints.run import read_ema, resolve
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh, replicated
from jaxdiff.training.show import HeldOut

MODEL = flags.DEFINE_string("model", None, "The classifier's run: its folder, or FOLDER@STEP.")
SPLIT = flags.DEFINE_string("split", None, "Split of its dataset; default: its data.held_out.")
REPEATS = flags.DEFINE_integer("repeats", 16, "How often each image is noised.")


def accuracies(model, split, repeats):
    """{"top1_q0": share, ..., "top5_q3": share} of a classifier.

    Raises:
      UserError: for a reference or split that does not exist, or a run that is no classifier's.
    """
    reference = resolve(model)
    config = reference.run.config()
    if config.model.kind != "classifier":
        raise UserError(f"{reference} is no classifier: give a run of model.kind classifier.")
    network, mesh = build.network(config), make_mesh()
    shardings = jax.tree.map(lambda _: replicated(mesh), network.shapes)
    params = read_ema(reference, network.shapes, shardings)
    source = open_split(config.data, split or config.data.held_out).in_memory()
    return HeldOut(network, build.process(config), source, mesh).measure(params, repeats)


def main():
    """Prints a table."""
    cli.use_compilation_cache()
    model = cli.require("model", MODEL.value, "the folder of a classifier's run")
    shares = accuracies(model, SPLIT.value, REPEATS.value)
    print("quarter of t   top-1   top-5")
    for q in range(4):
        print(f"{q:12d}  {shares[f'top1_q{q}']:6.1%}  {shares[f'top5_q{q}']:6.1%}")


if __name__ == "__main__":
    cli.run(main)
