"""Programs that are timed in turn: each in a process of its own, which works when it is asked to.

A process writes one line of JSON when it is ready, and one for each request that it reads: a line
of JSON such as {"do": "step", "calls": 2}. Only the standard library is used, as the processes run
with different Pythons.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


class Contender:
    """A process that is asked to do something.

    Arguments:
      command: list of str, its command line.
      environment: {name: value}, added to this process's.
      core: number of the CPU core that it runs on; None: any.

    Attributes:
      ready: what it said when it was ready; None before `start`.
    """

    def __init__(self, command, environment=None, core=None):
        self.ready = None
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )

    def start(self):
        """Waits until it is ready, and returns what it says; EOFError if it ended instead."""
        self.ready = self.answer()
        return self.ready

    def ask(self, do, **details):
        """Its answer to a request; EOFError if it ended instead."""
        self.request(do, **details)
        return self.answer()

    def request(self, do, **details):
        """Sends a request, whose answer is read by `answer`."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError("The process has ended.") from None

    def kill(self):
        """Ends the process, which may be asked something in another thread."""
        self._process.kill()

    def end(self):
        """Ends the process and waits for it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def answer(self):
        """The next answer; EOFError if the process ended instead."""
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"The process ended with status {self._process.wait()}.")
        return json.loads(line)


def answer_requests(ready, actions):
    """The process's side: says that it is ready, then answers until there are no more requests.

    Args:
      ready: () -> (a dict of what it says when it is ready, {name: function}), in which the
        libraries are imported; what they print goes to stderr.
      actions: {name: function(functions, **details) -> dict} for requests.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message):
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    message, functions = ready()
    reply(message)
    for line in sys.stdin:
        request = json.loads(line)
        reply(actions[request.pop("do")](functions, **request))


def cpu_seconds(functions, name, calls):
    """The action that times a function: {"seconds": CPU seconds of a call, of all threads}."""
    start = time.process_time()
    for _ in range(calls):
        functions[name]()
    return {"seconds": (time.process_time() - start) / calls}


def wall_seconds(functions, name, calls):
    """The action that times a function: {"seconds": wall time of a call}."""
    start = time.perf_counter()
    for _ in range(calls):
        functions[name]()
    return {"seconds": (time.perf_counter() - start) / calls}


def both_seconds(functions, name, calls):
    """The action that times a function: {"wall", "cpu": seconds of a call, the latter's of all}."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        functions[name]()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / calls, "cpu": cpu / calls}


def in_turn(contenders, rounds, ask):
    """{name: [answer of each round]}; every round asks all, each first in its turn.

    Args:
      contenders: {name: Contender}.
      rounds: how many.
      ask: Contender -> answer.
    """
    names, found = list(contenders), {name: [] for name in contenders}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ask(contenders[name]))
    return found


def ratio(values, others):
    """(median, lower, upper quartile) of the rounds' ratios."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(values, others, strict=True)], n=4
    )
    return middle, low, high
