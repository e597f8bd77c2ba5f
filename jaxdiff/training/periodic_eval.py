"""What is evaluated while a network trains, and how often."""

import contextlib
import dataclasses

from jaxdiff import tables
from jaxdiff.claims import in_first
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.training.held_out import HeldOut
from jaxdiff.training.interrupt import Left
from jaxdiff.training.previews import Preview
from jaxdiff.training.sample_metrics import SampleMetrics


def evaluations_of(task, run, source, mesh, interrupt):
    """A list of (period in steps, what the loop then calls as (run, writer, number, params)).

    Args:
      task: the run's Task.
      run: its folder.
      source: the training split.
      mesh: the devices.
      interrupt: an Interrupt, which ends long measurements.

    Raises:
      UserError: for sampling that the process does not have, metrics that cannot be measured, or a
        split that there is not.
    """
    config, training = task.config, task.config.training
    if config.is_classifier:
        return [(training.preview_every, _until_asked(_held_out(task, mesh, interrupt)))]
    found = [(training.preview_every, Preview(task, source, mesh))]
    if training.evaluate_every:
        samples = SampleMetrics(task, run, source, mesh, interrupt)
        try:
            held_out = _held_out(task, mesh, interrupt)
        except UserError as error:
            held_out = None
            if processes.is_first():
                print(f"The loss on held-out images is not measured: {error}")
        evaluation = Evaluation(samples, held_out)
        found.append((training.evaluate_every, _until_asked(evaluation)))
    return found


def _held_out(task, mesh, interrupt):
    data = task.config.data
    source = open_split(data, data.held_out, task.config.model.conditions)
    return HeldOut(task, source.in_memory(), mesh, interrupt.leave_if_asked)


def _until_asked(evaluate):
    """The same function, which returns early if the program is asked to stop meanwhile."""

    def evaluating(*args):
        with contextlib.suppress(Left):  # the checkpoint comes first
            evaluate(*args)

    return evaluating


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A row of RUN/evaluation.csv: metrics of samples, and the loss on held-out images.

    Attributes:
      samples: the SampleMetrics.
      held_out: a HeldOut, or None.
    """

    samples: SampleMetrics
    held_out: HeldOut | None

    def __call__(self, run, writer, number, params):
        """Measures, reports and writes the row; Left if the program was asked to stop meanwhile."""
        found = self.samples(run, writer, number, params)
        losses = self.held_out(run, writer, number, params) if self.held_out else {}
        row = {"step": number, **found}
        row |= {f"held_out_{name}": value for name, value in losses.items()}
        in_first(tables.put_row, run.evaluation, row)
