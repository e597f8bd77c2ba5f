"""Pictures of what a run samples while it trains."""

import numpy as np

from jaxdiff import factory, files
from jaxdiff.claims import in_first
from jaxdiff.config import Label
from jaxdiff.errors import user_errors
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.pipeline import Params, Pipeline

ROWS = 6  # of a preview, with a column for each class
MOST_COLUMNS = 16
IMAGES, POINTS = 64, 4096  # of a preview without such columns


class Preview:
    """Pictures of what a run's EMA samples, with the config's sampler."""

    def __init__(self, task, source, mesh):
        config, shape = task.config, task.network.signature.shape
        self._seed, self._class_names = config.seed, source.class_names
        self._cond = _conditions(config.model.conditions, source, POINTS if len(shape) == 1 else 0)
        self._sample = Pipeline(
            network=task.network,
            process=task.process,
            sampler=factory.sampler(config.sampling),
            codec=task.codec,
            mesh=mesh,
        )
        with user_errors():
            levels, _ = task.process.path(config.sampling)
        self._grid = self._sample.sampler.grid(levels)

    def __call__(self, run, writer, number, params):
        """Writes previews/<number>.png and the same picture to TensorBoard.

        Samples that are not finite are crossed out, and counted in a line.

        Raises:
          UserError: if the picture cannot be written.
        """
        count, cond = self._cond
        found = self._sample(Params(params), self._grid, self._seed, np.arange(count), count, cond)
        in_first(self._write, run, writer, number, found, cond)

    def _write(self, run, writer, number, found, cond):
        count = len(found["finite"])
        bad = np.flatnonzero(~found["finite"])
        if len(bad):
            about = finite.about(finite.summary(bad), count, "samples of the preview")
            writer.say(f"step {number}: {about}.")
        picture = image_grid.picture(found["images"], cond, self._class_names, bad)
        if picture is not None:
            with files.replacing(run.previews / f"{number}.png") as file:
                picture.save(file, "png")
            writer.write_images(number, {"samples": image_grid.to_array(picture)})


def _conditions(conditions, source, count=0):
    """(N, {name: array [N, ...]}) of a preview: each class in turn, or the first examples'."""
    if len(conditions) == 1 and isinstance(conditions[0], Label):
        classes = np.setdiff1d(np.arange(conditions[0].classes, dtype=np.int32), source.empty)
        columns = len(classes)
        count = count or (ROWS * columns if 1 < columns <= MOST_COLUMNS else IMAGES)
        return count, {conditions[0].name: classes[np.arange(count) % columns]}
    count = count or IMAGES
    return count, source.fetch(np.arange(count) % len(source))["cond"] if conditions else {}
