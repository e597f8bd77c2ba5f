"""The loss of a network, or a classifier's accuracy, on images that it is not trained on."""

import jax
import jax.numpy as jnp

from jaxdiff.claims import in_all, in_first
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import rows_here, to_devices
from jaxdiff.training.metrics import quartiles
from jaxdiff.training.step import QUARTILES, add_sums, means, zero_sums

BATCH = 256


class HeldOut:
    """Terms of a run's loss on a split of its data, by quarter of the noise levels.

    Every measurement draws the same noise, so those of different steps compare. Conditions are
    never dropped, and the network has no dropout.
    """

    def __init__(self, task, source, mesh, before_batch=lambda: None):
        """Compiles nothing yet.

        Args:
          task: a Task.
          source: the split.
          mesh: the devices.
          before_batch: called before each batch; what it raises ends a measurement.
        """
        self._before_batch = before_batch
        self._source, self._mesh, self._terms = source, mesh, task.objective.terms

        def measure(params, batch, real, key):
            x0 = task.codec.encode(batch["x"])
            draws = task.process.draw(key, x0.shape)
            examples = {"x0": x0, "cond": batch["cond"], "draws": draws}
            terms, quartile = task.objective.losses(params, examples)
            # What pads the last batch falls into no quarter.
            return add_sums(zero_sums(terms), terms, jnp.where(real, quartile, -1))

        self._measure = jax.jit(measure)

    def measure(self, params, repeats=1, seed=0):
        """Means over the split: {"loss": float, "loss_q0": float, ...}, 0 the cleanest quarter.

        Args:
          params: of the network.
          repeats: how often noise is drawn for each image.
          seed: of the noise.
        """
        size = -(-BATCH // self._mesh.size) * self._mesh.size
        total = None
        for repeat in range(repeats):
            for start in range(0, len(self._source), size):
                self._before_batch()
                numbers = start + rows_here(self._mesh, size)
                rows = in_all(self._source.fetch, numbers % len(self._source))
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), repeat), start)
                real = numbers < len(self._source)
                sums = self._measure(params, *to_devices((rows, real), self._mesh), key)
                total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        total = jax.device_get(total)
        for term in self._terms:
            total[term] = sum(total[f"{term}_q{quarter}"] for quarter in range(QUARTILES))
        return means(total)

    def __call__(self, run, writer, number, params):
        """Writes the means to TensorBoard, and prints a line. Returns them."""
        del run
        found = self.measure(params)
        in_first(writer.write_scalars, number, {f"held_out/{name}": v for name, v in found.items()})
        if processes.is_first():
            writer.say(f"step {number}, held out: {_text(found)}")
        return found


def _text(found):
    if "top1" in found:
        return quartiles(found)
    parts = [found.get(f"loss_q{quarter}", float("nan")) for quarter in range(QUARTILES)]
    text = "/".join(f"{part:.4g}" for part in parts)
    return f"loss {found['loss']:.4f}, by quarter of the noise levels, the cleanest first: {text}"
