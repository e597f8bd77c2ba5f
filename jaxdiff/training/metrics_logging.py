"""What a run reports while it trains: on the terminal, and in TensorBoard files."""

import collections
import contextlib
import math
import time

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from jaxdiff import files
from jaxdiff.parallel import processes
from jaxdiff.training.fitting import on_a_device
from jaxdiff.training.state import IN_A_ROW, state_bytes
from jaxdiff.training.step import means

AHEAD = 3  # steps
PART = 2**22  # bytes of an event file in a bucket
ROWS = 20  # of parts of a network


def describe(mesh, state):
    """Prints the mesh, the parameters by the network's parts, and the memory that the state takes.

    Args:
      mesh: of devices.
      state: a State of shapes with shardings.
    """
    if not processes.is_first():
        return
    print(f"Mesh: {dict(mesh.shape)} of {mesh.size} {jax.devices()[0].device_kind} device(s)")
    print(f"Parameters: {_count(state.params):,}")
    parts = {name: _count(tree) for name, tree in state.params.items()}
    for name, count in list(parts.items())[:ROWS]:
        print(f"{count:>15,} {name}")
    if len(parts) > ROWS:
        print(f"{'...':>15} {len(parts) - ROWS} more parts")
    sizes = state_bytes(state)
    here = state_bytes(jax.tree.map(on_a_device, state))
    print("Memory of the state, in all and on a device:")
    for name, size in sizes.items():
        print(f"{_mib(size):>15} {_mib(here[name]):>15} {name}")
    print(f"{_mib(sum(sizes.values())):>15} {_mib(sum(here.values())):>15} together", flush=True)


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _mib(size):
    return f"{size / 2**20:,.1f} MiB"


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


class Writer:
    """TensorBoard files without TensorFlow; method names are clu's. Writes in one process.

    What the disk refuses is raised, as a WriteError; tensorboardX's own writer has a thread, which
    would end then and leave the run waiting for it. Files for a bucket are written locally and
    copied at each call, and a new one is begun after PART bytes.
    """

    def __init__(self, folder, steps_done):
        """Events of steps after `steps_done`, left by a run that was cut off, are dropped.

        TensorBoard drops the step of a START and all later ones.
        """
        self._folder, self._events, self._local = folder, None, folder
        self._stack = contextlib.ExitStack()
        if processes.is_first():
            if files.is_remote(folder):
                self._local = self._stack.enter_context(files.temporary_folder())
            files.make_folder(self._local)
            self._begin_file()
            start = SessionLog(status=SessionLog.START)
            self._write([Event(step=steps_done + 1, session_log=start)])

    def _begin_file(self):
        # By default files of the same second have the same name, and one replaces another.
        with files.writing(self._folder):
            self._events = EventsWriter(str(self._local / "events"), f".{time.time_ns()}")

    def write_scalars(self, step, scalars):
        """{name: number}."""
        self._write(Event(step=step, summary=summary.scalar(n, v)) for n, v in scalars.items())

    def write_images(self, step, images):
        """{name: uint8 [H, W, C]}."""
        self._write(
            Event(step=step, summary=summary.image(name, image, dataformats="HWC"))
            for name, image in images.items()
        )

    def _write(self, events):
        if self._events is None:
            return
        with files.writing(self._folder):
            for event in events:
                event.wall_time = time.time()
                self._events.write_event(event)
            self._events.flush()
        if self._local != self._folder:
            (name,) = files.names(self._local)
            files.copy(self._local / name, self._folder / name)
            if files.size(self._local / name) > PART:
                self._events.close()
                files.remove(self._local / name)
                self._begin_file()

    def say(self, text):
        """Prints a line above the progress bar."""
        tqdm.write(text)

    def close(self):
        """Ends the file."""
        with self._stack, files.writing(self._folder):
            if self._events:
                self._events.close()


class Metrics:
    """Reads each interval's sums one interval late, when they have long been computed.

    Attributes:
      is_over: whether so many steps in a row were not finite that the run must end.
    """

    def __init__(self, writer, bar, batch_size):
        self.is_over = False
        self._writer, self._bar, self._batch_size = writer, bar, batch_size
        self._waiting, self._since = None, (bar.n, time.perf_counter())

    def push(self, number, sums):
        """Takes the sums of the interval that ends at step `number`; reports those before."""
        now = time.perf_counter()
        rate = (number - self._since[0]) * self._batch_size / (now - self._since[1])
        self._since = (number, now)
        self.finish()
        self._waiting = number, sums, rate

    def finish(self):
        """Reports what is waiting."""
        if self._waiting is None:
            return
        (number, sums, rate), self._waiting = self._waiting, None
        scalars = means(jax.device_get(sums))
        self.is_over |= scalars.pop("non_finite_in_row") >= IN_A_ROW
        if not (count := int(scalars["non_finite_steps"])):
            del scalars["non_finite_steps"]
        self._writer.write_scalars(number, {**scalars, "images_per_second": rate})
        accuracy = f"{quartiles(scalars)}, " if "top1" in scalars else ""
        loss = f"loss {scalars['loss']:.4f}, " if "loss" in scalars else ""
        counted = f"{count} non-finite steps, " if count else ""
        text = f"{loss}{accuracy}{counted}{rate:,.0f} images/s"
        self._bar.set_postfix_str(text, refresh=False)


def quartiles(scalars):
    """Accuracies as text: top-1 and top-5 in percent, cleanest quarter of noise levels first."""
    parts = []
    for name, title in (("top1", "top-1"), ("top5", "top-5")):
        shares = [scalars.get(f"{name}_q{q}", float("nan")) for q in range(4)]
        parts.append(f"{title} " + "/".join(f"{100 * share:.0f}" for share in shares) + " %")
    return ", ".join(parts)
