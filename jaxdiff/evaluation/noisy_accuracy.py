"""Accuracy of a noisy classifier on images that it was not trained on."""

from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling.trained_model import load
from jaxdiff.training.held_out import HeldOut
from jaxdiff.training.state import all_finite
from jaxdiff.training.task import Task


def accuracies(model, split=None, repeats=16):
    """{"top1_q0": share, ..., "top5_q3": share} of a classifier, by the quarter of the timesteps.

    Args:
      model: reference to the classifier.
      split: of its dataset; None: its data.held_out.
      repeats: how often each image is noised.

    Raises:
      UserError: for a reference or split that does not exist, or a run that is no classifier's or
        one of numbers that are not finite.
    """
    classifier = load(model)
    config = classifier.config
    if not config.is_classifier:
        raise UserError(f"{classifier} is a diffusion model: give the run of a classifier.")
    source = open_split(config.data, split or config.data.held_out, config.model.conditions)
    mesh = make_mesh()
    held_out = HeldOut(Task.of(config, mesh), source.in_memory(), mesh)
    if not all_finite(classifier.params):
        raise UserError(f"{classifier} holds numbers that are not finite: use another step.")
    with out_of_memory("use a machine with more"):
        return held_out.measure(classifier.params, repeats)
