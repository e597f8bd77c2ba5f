"""How well a noisy classifier reads images that it has not seen, by how noisy they are.

    python -m jaxdiff.evaluation.classifier --model runs/digits_classifier

Each image of the split is noised `repeats` times, at timesteps drawn uniformly. The table has a row
for each quarter of the timesteps, the cleanest first.
"""

from absl import flags

from jaxdiff import cli
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.parallel.memory import out_of_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling.trained_model import open_model
from jaxdiff.training.periodic_eval import HeldOut
from jaxdiff.training.state import all_finite


def accuracies(model, split, repeats):
    """{"top1_q0": share, ..., "top5_q3": share} of a classifier.

    Raises:
      UserError: for a reference or split that does not exist, or a run that is no classifier's or
        one of numbers that are not finite.
    """
    classifier, mesh = open_model(model, "model", "a classifier"), make_mesh()
    config = classifier.config
    source = open_split(config.data, split or config.data.held_out).in_memory()
    held_out = HeldOut(classifier.network, classifier.process, source, mesh)
    params = classifier.params(mesh)
    if not all_finite(params):
        raise UserError(f"{classifier} holds numbers that are not finite: use another step.")
    with out_of_memory("use a machine with more"):
        return held_out.measure(params, repeats)


def main():
    """Prints a table."""
    cli.use_compilation_cache()
    model = cli.require("model", flags.FLAGS.model, "the folder of a classifier's run")
    shares = accuracies(model, flags.FLAGS.split, flags.FLAGS.repeats)
    print("quarter of t   top-1   top-5")
    for q in range(4):
        print(f"{q:12d}  {shares[f'top1_q{q}']:6.1%}  {shares[f'top5_q{q}']:6.1%}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "The classifier's run: its folder, or FOLDER@STEP.")
    flags.DEFINE_string("split", None, "Split of its dataset; default: its data.held_out.")
    flags.DEFINE_integer("repeats", 16, "How often each image is noised.", lower_bound=1)
    cli.run(main)
