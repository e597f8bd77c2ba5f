"""What is evaluated while a network trains, and how often."""

from jaxdiff import tables
from jaxdiff.claims import in_first
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.training.held_out import HeldOut
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
        return [(training.preview_every, _held_out(task, mesh))]
    found = [(training.preview_every, Preview(task, source, mesh))]
    if training.evaluate_every:
        parts = [SampleMetrics(task, run, source, mesh, interrupt)]
        try:
            parts.insert(0, _held_out(task, mesh))
        except UserError as error:
            if processes.is_first():
                print(f"The loss on held-out images is not measured: {error}")
        found.append((training.evaluate_every, Evaluation(parts)))
    return found


def _held_out(task, mesh):
    data = task.config.data
    source = open_split(data, data.held_out, task.config.model.conditions)
    return HeldOut(task, source.in_memory(), mesh)


class Evaluation:
    """A row of RUN/metrics.csv: the held-out loss, and metrics of samples."""

    def __init__(self, parts):
        self._parts = parts

    def __call__(self, run, writer, number, params):
        """Measures, reports and writes the row; see the parts."""
        row = {"step": number}
        for part in self._parts:
            found = part(run, writer, number, params)
            prefix = "held_out_" if isinstance(part, HeldOut) else ""
            row |= {prefix + name: value for name, value in found.items()}
        in_first(tables.put_row, run.metrics, row)
