"""Periodic evaluation: pictures of samples, or the accuracy of a classifier on held-out images."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import factory, files
from jaxdiff.claims import in_first
from jaxdiff.config import Label
from jaxdiff.data.source import open_split
from jaxdiff.errors import user_errors
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import batch_sharding, from_global
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.pipeline import Params, Pipeline
from jaxdiff.training.metrics_logging import quartiles
from jaxdiff.training.objective import classification
from jaxdiff.training.step import add_sums, means, zero_sums

ROWS = 6  # of a preview, with a column for each class
MOST_COLUMNS = 16
IMAGES, POINTS = 64, 4096  # of a preview without such columns
HELD_OUT_BATCH = 256


def evaluation_of(task, source, mesh):
    """What the loop calls as (run, writer, number, params): a Preview or a HeldOut.

    Args:
      task: the run's Task.
      source: the training split.
      mesh: the devices.

    Raises:
      UserError: for sampling that the process does not have, or a held-out split that there is not.
    """
    config = task.config
    if not config.is_classifier:
        return Preview(task, source, mesh)
    held_out = open_split(config.data, config.data.held_out, config.model.conditions)
    return HeldOut(task, held_out.in_memory(), mesh)


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


class HeldOut:
    """A noisy classifier's accuracy on images of another split, by quarter of the noise levels."""

    def __init__(self, task, source, mesh):
        self._source, self._mesh, self._label = source, mesh, task.config.model.label.name
        objective = classification(task.network, task.process, self._label)

        def measure(params, images, labels, real, key):
            x0 = task.codec.encode(images)
            draws = task.process.draw(key, x0.shape)
            examples = {"x0": x0, "cond": {self._label: labels}, "draws": draws}
            terms, quartile = objective.losses(params, examples)
            # What pads the last batch falls into no quarter.
            return add_sums(zero_sums(terms), terms, jnp.where(real, quartile, -1))

        self._measure = jax.jit(measure)

    def measure(self, params, repeats=1, seed=0):
        """{"top1_q0": share, ...} over the split, with `repeats` draws of noise for each image."""
        sharding = batch_sharding(self._mesh)
        size = -(-HELD_OUT_BATCH // self._mesh.size) * self._mesh.size
        total = None
        for repeat in range(repeats):
            for start in range(0, len(self._source), size):
                numbers = np.arange(start, start + size)
                rows = self._source.fetch(numbers % len(self._source))
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), repeat), start)
                arrays = (rows["x"], rows["cond"][self._label], numbers < len(self._source))
                sums = self._measure(params, *(from_global(a, sharding) for a in arrays), key)
                total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return {name: value for name, value in means(jax.device_get(total)).items() if "_q" in name}

    def __call__(self, run, writer, number, params):
        """Writes the shares to TensorBoard and prints them."""
        del run
        shares = self.measure(params)
        writer.write_scalars(number, {f"held_out/{name}": v for name, v in shares.items()})
        if processes.is_first():
            writer.say(f"step {number}, held out: {quartiles(shares)}")
