"""Metrics of samples of a run's EMA, against images of the run's data."""

import dataclasses
import time

import numpy as np

from jaxdiff.claims import in_all, in_first
from jaxdiff.config import Label
from jaxdiff.data.source import open_split
from jaxdiff.evaluation.comparison import Comparison, reference_of
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.ranking import worst
from jaxdiff.parallel import processes
from jaxdiff.parallel.batches import even_size
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import TrainedModel


class SampleMetrics:
    """What the section `evaluation` of a run's config asks for.

    Samples have the run's seed, so those of different steps start from the same noise.
    """

    def __init__(self, task, run, source, mesh, interrupt):
        """Opens all that is needed, and checks it.

        Args:
          task: the run's Task.
          run: its folder.
          source: the training split.
          mesh: the devices.
          interrupt: an Interrupt, which ends long measurements.

        Raises:
          UserError: for features, weights, metrics, guidance or a split that cannot be used.
        """
        config, wanted = task.config, task.config.evaluation
        self._interrupt, self._wanted = interrupt, wanted
        real = source
        if wanted.reference != "train":
            split = open_split(config.data, wanted.reference, config.model.conditions)
            real = split.in_memory()
        extractor = open_extractor(wanted.features, wanted.weights or None, mesh)
        self._comparison = Comparison(
            dataclasses.replace(extractor, run=self._asking(extractor.run)),
            reference_of(config, wanted.reference, run.folder, real),
            wanted.metrics,
        )
        count = wanted.num_samples
        model = TrainedModel(
            config=config, class_names=source.class_names, empty=source.empty, mesh=mesh
        )
        self._job = model.job(
            count,
            seed=config.seed,
            cond=_conditions(config.model.conditions, real, count),
            sampler=wanted.sampler,
            guidance=wanted.guidance,
            batch_size=wanted.batch_size,
        )
        self._comparison.check(self._job)
        if processes.is_first():
            for note in self._job.method.notes:
                print(note)

    def __call__(self, run, writer, number, params):
        """Writes the metrics to TensorBoard, and prints a line.

        Returns:
          {column: value} of a row of RUN/evaluation.csv, without its step.

        Raises:
          Left: if the program was asked to stop meanwhile.
          UserError: for features that are not finite, and where the memory does not suffice.
        """
        del run
        begun = time.perf_counter()
        values = self._measure(writer, number, self._sample(params))
        scalars = {f"evaluation/{n}": value for n, value in values.items() if np.isfinite(value)}
        in_first(writer.write_scalars, number, scalars)
        if processes.is_first():
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            seconds = time.perf_counter() - begun
            count = self._wanted.num_samples
            writer.say(f"step {number}: {shown} ({count:,} samples, {seconds:.0f} s)")
        return {
            "samples": self._wanted.num_samples,
            "features": str(self._comparison.extractor),
            "reference": self._comparison.reference.name,
            **values,
        }

    def _asking(self, run):
        """An Extractor's `run` that asks before each batch; a file that one reads fails in all."""

        def asking(fetch, count, quiet=False, bar=None):
            def batch(rows):
                self._interrupt.leave_if_asked()
                return in_all(fetch, rows)

            return run(batch, count, quiet, bar)

        return asking

    def _sample(self, params):
        """What the pipeline returns of all samples."""
        count, mesh, parts = self._wanted.num_samples, self._job.pipeline.mesh, []
        params = self._job.params(params)
        size = -(-even_size(count, self._wanted.batch_size) // mesh.size) * mesh.size
        for start in range(0, count, size):
            self._interrupt.leave_if_asked()
            numbers = np.arange(start, min(start + size, count))
            parts.append(self._job.sample(params, numbers, size))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measure(self, writer, number, found):
        """{metric: value}, with the deviations of those that have one."""
        bad = np.flatnonzero(~found["finite"])
        if len(bad):
            about = finite.about(finite.summary(bad), len(found["finite"]))
            if processes.is_first():
                writer.say(f"step {number}: {about}, so they are not measured.")
            return {metric: worst(metric) for metric in self._wanted.metrics}
        say = writer.say if processes.is_first() else lambda _: None
        values = {}
        for each in self._comparison.values(found["images"], self._job.cond, say):
            values[each.metric] = float(each.value)
            if each.deviation is not None:
                values[f"{each.metric}_deviation"] = float(each.deviation)
        return values


def _conditions(conditions, source, count):
    """Conditions of `count` samples: those of examples, spread evenly; labels alone in turn."""
    if all(isinstance(each, Label) for each in conditions):
        return {}
    return source.fetch(np.arange(count) * len(source) // count)["cond"]
