"""One program in many processes: their numbers, and what is done in one of them or in all."""

import contextlib
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.numbers import whole

_works_alone = False


def initialize(distributed):
    """Joins this process to the others, if `distributed`; call before anything uses a device.

    The others are found from the environment: TPU pods, Slurm and Open MPI are recognised, and
    elsewhere the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID count.

    Raises:
      ValueError: in a whole sentence, if these variables are missing or contradict each other, or
        if the others are not found.
    """
    if not distributed:
        return
    known = _environment()
    try:
        jax.distributed.initialize(**known)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed cannot find the other processes ({error}): set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from None


def _environment():
    """The variables of the environment as arguments of jax.distributed.initialize."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if address and not (host and whole(port, 2**16 - 1)):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}: give a host and a port, such as host0:1234."
        )
    known = {}
    for name, variable in (
        ("num_processes", "JAX_NUM_PROCESSES"),
        ("process_id", "JAX_PROCESS_ID"),
    ):
        if (text := os.environ.get(variable)) is None:
            continue
        if whole(text) is None:
            raise ValueError(f"{variable} is {text!r}: give a whole number.")
        known[name] = int(text)
    count, number = known.get("num_processes"), known.get("process_id")
    if count == 0:
        raise ValueError("JAX_NUM_PROCESSES is 0: give the number of processes, at least 1.")
    if count is not None and number is not None and number >= count:
        raise ValueError(
            f"JAX_PROCESS_ID is {number}: of JAX_NUM_PROCESSES {count} processes the last is "
            f"{count - 1}."
        )
    return known


@contextlib.contextmanager
def alone():
    """While it is open this process works without the others that JAX may know of.

    So it does in programs that share nothing but a folder: none waits for another, whatever the
    others do. On a TPU pod JAX knows of all hosts, asked or not.
    """
    global _works_alone
    before, _works_alone = _works_alone, True
    try:
        yield
    finally:
        _works_alone = before


def index():
    """This process's number."""
    return 0 if _works_alone else jax.process_index()


def count():
    """How many processes run the program."""
    return 1 if _works_alone else jax.process_count()


def devices():
    """The devices of the processes that run the program."""
    return jax.local_devices() if _works_alone else jax.devices()


def is_first():
    """Whether this process is the one that prints and writes what is written once."""
    return index() == 0


def barrier(name):
    """Waits until every process is here."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(array):
    """A global device array as NumPy, in every process."""
    return multihost_utils.process_allgather(array, tiled=True)


def agree(number):
    """The first process's int32, in every process."""
    return number if count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_process(flag):
    """Whether `flag` is true in any process; every process must ask."""
    return bool(flag) if count() == 1 else bool(multihost_utils.process_allgather(flag).any())
