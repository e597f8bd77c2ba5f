"""What a run reports, written behind the loop's back: TensorBoard files and RUN/metrics.csv.

A thread takes what is to be written from a queue. What the disk refuses is raised, as a WriteError,
by whatever is called next in the main thread, and nothing is written after it. Files for a bucket
are written locally, and copied there by `flush`, which the loop calls before each checkpoint.
"""

import concurrent.futures
import contextlib
import time

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from jaxdiff import files, tables
from jaxdiff.parallel import processes

PART = 2**22  # bytes of an event file in a bucket


class Writer:
    """Writes scalars, pictures and rows, in the first process; method names are clu's.

    Arguments:
      run: the Run.
      columns: of metrics.csv, beside its step.
      steps_done: events and rows of later steps, left by a run that was cut off, are dropped.

    Raises:
      UserError: for a metrics.csv that is no table, and what cannot be written.
    """

    def __init__(self, run, columns, steps_done):
        self._error, self._is_raised = None, False
        self._stack, self._thread = contextlib.ExitStack(), None
        if processes.is_first():
            local = None
            if files.is_remote(run.folder):
                local = self._stack.enter_context(files.temporary_folder())
            self._table = _Table(run.metrics, ("step", *columns), steps_done, local)
            self._events = _Events(run.tensorboard, steps_done, local)
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "writer")

    def write_metrics(self, step, scalars):
        """{name: number} of the columns, some of which may be missing: events and a row."""
        self.write_scalars(step, scalars)
        self._later(lambda: self._table.add({"step": step, **scalars}))

    def write_scalars(self, step, scalars):
        """{name: number}, as events alone."""
        self._add(step, lambda: [summary.scalar(name, value) for name, value in scalars.items()])

    def write_images(self, step, images):
        """{name: uint8 [H, W, C]}."""
        self._add(
            step,
            lambda: [
                summary.image(name, image, dataformats="HWC") for name, image in images.items()
            ],
        )

    def _add(self, step, summaries):
        now = time.time()
        self._later(
            lambda: self._events.add(
                [Event(step=step, wall_time=now, summary=each) for each in summaries()]
            )
        )

    def flush(self):
        """Waits until all is written, in a bucket too."""
        self._later(lambda: self._events.copy())
        self._later(lambda: self._table.copy())
        if self._thread is not None:
            self._thread.submit(lambda: None).result()
            self._raise()

    def say(self, text):
        """Prints a line above the progress bar."""
        if self._thread is not None:
            tqdm.write(text)

    def close(self):
        """Writes what is left, and ends the thread; raises what was not raised before."""
        if self._thread is None:
            return
        with self._stack, self._thread:
            try:
                if not self._is_raised:
                    self.flush()
            finally:
                self._events.close()

    def _later(self, function):
        """Has the thread call a function; raises what went wrong in an earlier one."""
        if self._thread is not None:
            self._raise()
            self._thread.submit(self._try, function)

    def _raise(self):
        if self._error is not None:
            self._is_raised = True
            raise self._error

    def _try(self, function):
        """In the thread; after an error nothing more is tried."""
        if self._error is None:
            try:
                function()
            except BaseException as error:
                self._error = error


class _Events:
    """Event files of a folder; in a bucket, a new one is begun after PART bytes."""

    def __init__(self, folder, steps_done, local):
        self._folder, self._local = folder, folder if local is None else local / "events"
        files.make_folder(self._local)
        self._begin()
        # TensorBoard drops the step of a START and all later ones.
        start = SessionLog(status=SessionLog.START)
        self.add([Event(step=steps_done + 1, wall_time=time.time(), session_log=start)])

    def _begin(self):
        # By default files of the same second have the same name, and one replaces another.
        with files.writing(self._folder):
            self._file = EventsWriter(str(self._local / "events"), f".{time.time_ns()}")

    def add(self, events):
        with files.writing(self._folder):
            for event in events:
                self._file.write_event(event)
            self._file.flush()

    def copy(self):
        if self._local != self._folder:
            (name,) = files.names(self._local)
            files.copy(self._local / name, self._folder / name)
            if files.size(self._local / name) > PART:
                self.close()
                files.remove(self._local / name)
                self._begin()

    def close(self):
        with files.writing(self._folder):
            self._file.close()


class _Table:
    """A CSV file that rows are added to; in a bucket it is copied whole."""

    def __init__(self, path, columns, steps_done, local):
        self._path, self._local = path, path if local is None else local / path.name
        self._columns = tables.begin(path, self._local, columns, steps_done)

    def add(self, row):
        tables.append_row(self._local, self._columns, row)

    def copy(self):
        if self._local != self._path:
            files.copy(self._local, self._path)
