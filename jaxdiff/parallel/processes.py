"""One program in many processes: their numbers, and what is done in one of them or in all."""

import contextlib
import threading
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff.parallel import cluster as cluster_lib
from jaxdiff.parallel import watchdog

SECONDS_TO_JOIN = 15.0  # after which a process says that it waits for the others
# Seconds after which a process that sends no heartbeat is lost. JAX's own is 100.
HEARTBEAT_TIMEOUT = 30

_works_alone = False


def initialize(cluster):
    """Joins this process to the others of a cluster; call before anything uses a device.

    Args:
      cluster: a Cluster; None: there are no others.

    Raises:
      ValueError: in a whole sentence, if the others are not found, or one is missing.
    """
    if cluster is None:
        return
    if not cluster.address:
        raise ValueError(
            f"{cluster.kind} has started {cluster.num_processes} processes on several hosts, but "
            "does not say where the first is: set JAX_COORDINATOR_ADDRESS to its host and a free "
            "port, as in mpirun -x JAX_COORDINATOR_ADDRESS=host0:1234."
        )
    local = cluster_lib.devices_of(cluster)
    who = f"Process {cluster.process_id} of {cluster.num_processes} ({cluster.kind})"
    advice = "start all of them, or give --nodistributed to run this process alone."
    # JAX aborts the program, without an exception, when it has waited long enough.
    waiting = f"{who} waits up to 5 minutes for the others at {cluster.address}: {advice}"
    timer = threading.Timer(SECONDS_TO_JOIN, watchdog.say, [waiting])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            cluster.address,
            cluster.num_processes,
            cluster.process_id,
            local,
            cluster_detection_method="deactivate",
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{who} cannot join the others at {cluster.address} ({error}): {advice}"
        ) from None
    finally:
        timer.cancel()
    watchdog.begin(cluster.process_id, cluster.num_processes)


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


def meet(name, seconds):
    """Whether all processes come here within some seconds; takes part in no computation.

    Args:
      name: of the meeting, used once.
      seconds: that the first one waits for the last.
    """
    if count() == 1:
        return True
    from jax._src.distributed import global_state  # JAX has no public way to it

    try:
        global_state.client.wait_at_barrier(f"jaxdiff-{name}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def gather(tree):
    """Device arrays as NumPy; those that other processes hold parts of, in all of them at once."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def agree(number):
    """The first process's int32, in every process."""
    return number if count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def same_everywhere(text):
    """Whether all processes have the same text; every process asks."""
    return len({*everywhere(zlib.crc32(text.encode()) // 2)}) == 1  # an int32


def any_process(flag):
    """Whether `flag` is true in any process; every process must ask."""
    return bool(flag) if count() == 1 else bool(multihost_utils.process_allgather(flag).any())


def everywhere(number):
    """An int of each process, in the order of their numbers; every process asks."""
    return [number] if count() == 1 else multihost_utils.process_allgather(number).tolist()


def first_where(flag):
    """The first process where `flag` is true, by its number; None: in none. Every process asks."""
    flags = everywhere(int(flag))
    return flags.index(1) if any(flags) else None
