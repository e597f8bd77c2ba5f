"""What a run reports while it trains, at each `training.log_every`; read without waiting.

    loss, grad_norm, ...   means over the finite steps of the interval, of the training step
    non_finite_steps       how many there have been in the run
    learning_rate          of the interval's last step
    images                 step * batch_size; epochs = images / examples of the data
    images_per_second      of wall time, evaluations and checkpoints included
    waiting_for_data       share of the interval in which the loop was blocked, waiting for a batch
    device_memory_gib      the most that a device had in use since the program began, in GiB
    mfu                    model FLOPs utilization: operations of the steps' mathematics, without
                           what remat computes again, over wall time, devices and their peak

Of several processes `waiting_for_data` and `device_memory_gib` are the largest. What a device or
its peak is not known to have is left out.
"""

import collections
import dataclasses
import functools
import time

import jax
import numpy as np

from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import replicated, to_devices
from jaxdiff.training.optimizer import learning_rate
from jaxdiff.training.state import IN_A_ROW
from jaxdiff.training.step import means, zero_sums

AHEAD = 3  # steps
RATES = ("images_per_second", "waiting_for_data", "device_memory_gib", "mfu")
IN_A_ROW_NAME = "non_finite_in_row"


def columns(terms):
    """Names of all scalars of a run whose loss has these terms."""
    first = ("loss", "grad_norm", "learning_rate", "images", "epochs", *RATES, "non_finite_steps")
    return (*first, *(name for name in zero_sums(terms) if name not in (*first, IN_A_ROW_NAME)))


class Pace:
    """Keeps the host a few steps before the devices: enough that they never wait for it.

    Were it further ahead, a run that is asked to stop would first have to take all the steps that
    were dispatched, and its progress bar would count them before they are taken.
    """

    def __init__(self):
        self._sent = collections.deque()

    def __call__(self, results):
        """Takes the results of a step that was just dispatched; waits for those AHEAD before."""
        self._sent.append(results)
        if len(self._sent) > AHEAD:
            jax.block_until_ready(self._sent.popleft())


class Timed:
    """An iterator that measures how long its caller is blocked in it.

    Attributes:
      seconds: so far.
    """

    def __init__(self, batches):
        self.seconds, self._batches, self._first = 0.0, batches, None

    def peek(self):
        """What comes first, which still comes then."""
        self._first = next(self)
        return self._first

    def __next__(self):
        if self._first is not None:
            first, self._first = self._first, None
            return first
        begun = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - begun

    def close(self):
        """Ends the iterator."""
        self._batches.close()


@dataclasses.dataclass(frozen=True)
class Constants:
    """What rates are computed from.

    Attributes:
      training: the config's section.
      examples: of the data.
      flops: operations of a step, of all devices; None where it is not needed.
      peak: operations a second of all devices; None where it is not known.
    """

    training: object
    examples: int
    flops: float | None = None
    peak: float | None = None

    def progress(self, number):
        """{name: value} of how far a run is at a step."""
        images = number * self.training.batch_size
        return {"images": images, "epochs": images / self.examples}

    def rates(self, steps, seconds):
        """{name: value} of so many steps in so many seconds."""
        found = {"images_per_second": steps * self.training.batch_size / seconds}
        if self.flops and self.peak:
            found["mfu"] = steps * self.flops / (seconds * self.peak)
        return found


class Metrics:
    """Reads each interval's sums one interval late, when they have long been computed.

    Arguments:
      writer: a Writer.
      bar: what shows progress.
      constants: Constants.
      data: the Timed batches.
      mesh: the devices.
      number: of steps that were taken before.

    Attributes:
      is_over: whether so many steps in a row were not finite that the run must end.
    """

    def __init__(self, writer, bar, constants, data, mesh, number):
        self.is_over = False
        self._writer, self._bar, self._constants = writer, bar, constants
        self._data, self._mesh, self._unread = data, mesh, None
        self._rate = jax.jit(learning_rate(constants.training))
        self._since = self._begun = (number, time.perf_counter(), data.seconds)

    def push(self, number, sums):
        """Takes the sums of the interval that ends at step `number`; reports those before."""
        steps, seconds, waited = self._until(number, self._since)
        self._since = number, time.perf_counter(), self._data.seconds
        # Computed on the devices after the step, like its sums, and like them read later.
        arrays = (
            sums,
            self._rate(np.int32(number - 1)),
            _largest(self._mesh, (waited / seconds, _peak_memory())),
        )
        self.finish()
        rates = self._constants.progress(number) | self._constants.rates(steps, seconds)
        self._unread = number, rates, arrays

    def finish(self):
        """Reports what was not yet read."""
        if self._unread is None:
            return
        (number, rates, arrays), self._unread = self._unread, None
        sums, rate, (waiting, memory) = jax.device_get(arrays)
        scalars = means(sums)
        self.is_over |= scalars.pop(IN_A_ROW_NAME) >= IN_A_ROW
        scalars["non_finite_steps"] = int(scalars["non_finite_steps"])  # not a mean
        scalars |= {"learning_rate": float(rate), **rates, "waiting_for_data": float(waiting)}
        if memory:
            scalars["device_memory_gib"] = float(memory)
        self._writer.write_metrics(number, scalars)
        self._bar.set_postfix_str(line(scalars), refresh=False)

    def overall(self, number):
        """(steps, seconds, share of them waiting for data) of this process up to a step."""
        steps, seconds, waited = self._until(number, self._begun)
        return steps, seconds, waited / seconds

    def _until(self, number, since):
        now = number, time.perf_counter(), self._data.seconds
        return tuple(new - old for new, old in zip(now, since, strict=True))


def _peak_memory():
    """GiB that a device of this process had in use at most; 0 where it does not say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max(each.get("peak_bytes_in_use", 0) for each in stats) / 2**30


def _largest(mesh, values):
    """The largest of each of some numbers over all processes, to be read later: an array."""
    if processes.count() == 1:
        return np.asarray(values)
    mine = np.tile(np.asarray(values, np.float32), (len(mesh.local_devices), 1))
    return _maximum(mesh)(to_devices(mine, mesh))


@functools.cache
def _maximum(mesh):
    return jax.jit(lambda x: x.max(0), out_shardings=replicated(mesh))


def line(scalars):
    """Scalars as the progress bar shows them."""
    parts = [f"loss {scalars['loss']:.4f}"] if "loss" in scalars else []
    if "top1" in scalars:
        parts.append(quartiles(scalars))
    if count := scalars["non_finite_steps"]:
        parts.append(f"{count} non-finite steps")
    if "grad_norm" in scalars:
        parts.append(f"gradient {scalars['grad_norm']:.3g}")
    parts.append(f"lr {scalars['learning_rate']:.3g}")
    parts.append(f"epoch {scalars['epochs']:.4g}")
    parts.append(f"{scalars['images_per_second']:,.0f} images/s")
    parts.append(f"waiting {scalars['waiting_for_data']:.0%}")
    if "device_memory_gib" in scalars:
        parts.append(f"{scalars['device_memory_gib']:.1f} GiB")
    if "mfu" in scalars:
        parts.append(f"MFU {scalars['mfu']:.0%}")
    return ", ".join(parts)


def quartiles(scalars):
    """Accuracies as text: top-1 and top-5 in percent, cleanest quarter of noise levels first."""
    parts = []
    for name, title in (("top1", "top-1"), ("top5", "top-5")):
        shares = [scalars.get(f"{name}_q{q}", float("nan")) for q in range(4)]
        parts.append(f"{title} " + "/".join(f"{100 * share:.0f}" for share in shares) + " %")
    return ", ".join(parts)
