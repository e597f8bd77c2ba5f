"""What a run shows of itself at a period: samples, or accuracy on images that it has not seen."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import writing
from jaxdiff.data.images import to_float
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import batch_sharding, from_global
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.pipeline import Generator, Params
from jaxdiff.training.augment import area_downsample
from jaxdiff.training.metrics_logging import quartiles
from jaxdiff.training.objective import classification
from jaxdiff.training.step import add_sums, means, zero_sums

PREVIEW_ROWS = 6
POINTS = 4096
HELD_OUT_BATCH = 256


class Preview:
    """Pictures of what a run's EMA samples, with the config's sampling settings."""

    def __init__(self, config, network, process, source, mesh):
        """`source` says which classes have images, and gives those that are to be enlarged."""
        classes = tuple(c for c in range(config.data.num_classes) if c not in source.empty)
        self._columns = len(classes) if 1 < len(classes) <= 16 else 8
        low_res = None
        if config.data.low_res_size:
            rows = source.fetch(np.arange(PREVIEW_ROWS * self._columns) % len(source))
            classes = tuple(rows["label"].tolist()) if classes else ()
            low_res = np.asarray(area_downsample(to_float(rows["image"]), config.data.low_res_size))
        shape = factory.sample_shape(config)
        self._is_points = len(shape) == 1
        self._count = POINTS if self._is_points else PREVIEW_ROWS * self._columns
        self._generate = Generator(
            network=network,
            process=process,
            sampler=factory.sampler(config.sampling),
            shape=shape,
            classes=classes,
            mesh=mesh,
            low_res=low_res,
        )
        levels, _ = factory.path(config, config.sampling)
        self._grid = self._generate.sampler.grid(levels)
        self._seed = config.seed

    def __call__(self, run, writer, number, params):
        """Writes previews/<number>.png and the same picture to TensorBoard.

        Samples that are not finite are crossed out, and counted in a line.

        Raises:
          UserError: if the picture cannot be written.
        """
        numbers = np.arange(self._count)
        x = self._generate(Params(params), self._grid, self._seed, numbers, len(numbers))
        if processes.is_first():
            bad = finite.non_finite(x)
            if len(bad):
                found = finite.about(finite.summary(bad), len(x), "samples of the preview")
                writer.say(f"step {number}: {found}.")
            picture = (
                image_grid.scatter(np.delete(x, bad, 0))
                if self._is_points
                else image_grid.grid(finite.pictures_of(x, bad), self._columns, crossed=bad)
            )
            with writing(run.previews):
                picture.save(run.previews / f"{number}.png")
            writer.write_images(number, {"samples": image_grid.to_array(picture)})


class HeldOut:
    """A noisy classifier's accuracy on images of another split, by quarter of the noise levels."""

    def __init__(self, network, process, source, mesh):
        """`source` is a Source of the images, which are padded to whole batches."""
        self._process, self._source, self._mesh = process, source, mesh
        objective = classification(network, process, drop_rate=0.0)

        def measure(params, images, labels, real, key):
            x0 = to_float(images)
            examples = {
                "x0": x0,
                "label": labels,
                "draws": process.draw(key, x0.shape),
                "dropout": None,
            }
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
                arrays = (rows["image"], rows["label"], numbers < len(self._source))
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
