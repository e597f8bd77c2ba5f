"""A trace of some steps of training, where TensorBoard's profile plugin and xprof look for it."""

import contextlib

import jax
from tqdm import tqdm

from jaxdiff import files
from jaxdiff.claims import in_first
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes


class Profile:
    """Writes RUN/tensorboard/plugins/profile/<time>/ of steps START + 1 to START + STEPS.

    The first process traces the devices that are its own. The steps before are waited for, so that
    nothing of them is in the trace. A run that continues behind START is not traced, so that the
    command that began it continues it.

    Arguments:
      asked: (START, STEPS), or () for no trace.
      run: the Run.
      number: of steps that were taken before.
      num_steps: of the whole run.

    Raises:
      UserError: for other numbers, and steps after the last.
    """

    def __init__(self, asked, run, number, num_steps):
        self._run, self._stack = run, contextlib.ExitStack()
        self._begin = self._end = self._local = None
        if not asked:
            return
        given = f"--profile is {','.join(map(str, asked))}"
        if len(asked) != 2 or asked[0] < 0 or asked[1] < 1:
            raise UserError(
                f"{given}: give START,STEPS, two whole numbers such as 200,10 for a trace of steps "
                "201 to 210."
            )
        begin, end = asked[0], sum(asked)
        steps = f"{given}, which asks for steps {begin + 1} to {end}"
        if end > num_steps:
            raise UserError(f"{steps}, and training ends at {num_steps}: choose steps before.")
        if begin >= number:
            self._begin, self._end = begin, end
        elif processes.is_first():
            print(f"No trace: {steps}, and training continues from step {number}.", flush=True)

    def at(self, number, results):
        """Begins or ends the trace, if this is its place; after each step, and before the first.

        Args:
          number: of the step that was just taken.
          results: of it.
        """
        if number not in (self._begin, self._end):
            return
        jax.block_until_ready(results)
        in_first(self._start if number == self._begin else self._stop)

    def _start(self):
        self._local = self._stack.enter_context(files.temporary_folder())
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # thousands of calls a step
        jax.profiler.start_trace(self._local, profiler_options=options)

    def _stop(self):
        local, self._local = self._local, None
        with self._stack:
            jax.profiler.stop_trace()
            for name in files.walk(local):
                files.copy(local / name, self._run.tensorboard / name)
                folder = (self._run.tensorboard / name).parent
        tqdm.write(f"Wrote a trace of steps {self._begin + 1} to {self._end}: {folder}")

    def close(self):
        """Ends a trace that has begun."""
        if self._local is not None:
            self._stop()


def annotated(number):
    """A context in which a step is dispatched, by which traces tell steps apart."""
    return jax.profiler.StepTraceAnnotation("train", step_num=number)
