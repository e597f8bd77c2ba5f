"""One program on many hosts: who am I, and what is done once."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.errors import UserError


def initialize(distributed):
    """Joins this process to the others, if `distributed`; call before anything uses a device.

    The others are found from the environment: TPU pods, Slurm and Open MPI are recognised, and
    elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say where they are.

    Raises:
      UserError: if the environment does not tell.
    """
    if not distributed:
        return
    known = {
        name: int(os.environ[variable])
        for name, variable in {
            "num_processes": "JAX_NUM_PROCESSES",
            "process_id": "JAX_PROCESS_ID",
        }.items()
        if variable in os.environ
    }
    try:
        jax.distributed.initialize(**known)
    except ValueError as error:
        raise UserError(
            f"--distributed cannot find the other processes ({error}): set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from None


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


def agree(number):
    """The first process's int32, in every process."""
    return number if count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_process(flag):
    """Whether `flag` is true in any process; every process must ask."""
    return bool(flag) if count() == 1 else bool(multihost_utils.process_allgather(flag).any())
