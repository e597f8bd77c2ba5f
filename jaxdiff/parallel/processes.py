"""One program on many hosts: who am I, and what is done once."""

import jax
from jax.experimental import multihost_utils


def initialize(distributed):
    """Joins this process to the others, if `distributed`; call before anything uses a device.

    The coordinator is found from the environment: TPU pods, Slurm and Open MPI are recognised.
    """
    if distributed:
        jax.distributed.initialize()


def index():
    """This process's number."""
    return jax.process_index()


def count():
    """How many processes run the program."""
    return jax.process_count()


def is_first():
    """Whether this process is the one that prints and writes what is written once."""
    return jax.process_index() == 0


def barrier(name):
    """Waits until every process is here."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def first_then_rest(function):
    """Calls `function` in the first process, then in the others; returns its result in each."""
    if is_first():
        result = function()
    barrier("first")
    if not is_first():
        result = function()
    barrier("rest")
    return result


def gather(array):
    """A global device array as NumPy, in every process."""
    return multihost_utils.process_allgather(array, tiled=True)


def any_process(flag):
    """Whether `flag` is true in any process; every process must ask."""
    return bool(flag) if count() == 1 else bool(multihost_utils.process_allgather(flag).any())
