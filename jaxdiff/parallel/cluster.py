"""Which processes run this program together, as whoever started them says in the environment.

A cluster is looked for in this order, the innermost launcher first:

    JAX        JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three; in an
               indexed Job of Kubernetes JOB_COMPLETION_INDEX serves for the last
    Open MPI   OMPI_COMM_WORLD_SIZE, from mpirun
    Slurm      SLURM_STEP_NUM_TASKS, from srun; a batch script or a shell of salloc is one process
    TPU        TPU_WORKER_HOSTNAMES and TPU_WORKER_ID, as on Kubernetes, times
               MEGASCALE_NUM_SLICES; or what the metadata server of a TPU VM says

Imports no JAX. JAX's own search is not used: it takes SLURM_NTASKS, which a shell of salloc has
too, gives every task of Slurm and Open MPI one GPU, be it alone on its host, and does not know
Open MPI 5.
"""

import os
import re
import zlib
from dataclasses import dataclass

from jaxdiff.numbers import whole
from jaxdiff.parallel import metadata

JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TPU_PORT = 8482  # which nothing else on a TPU VM uses, as JAX chooses it
# The others take ports of the last 4,096, by the job's number, as in JAX.
PORTS = 2**12


@dataclass(frozen=True)
class Cluster:
    """Several processes that run one program, and which of them this one is.

    Attributes:
      kind: "JAX", "Open MPI", "Slurm" or "TPU": whose variables say so.
      num_processes: how many there are, at least 2.
      process_id: this one's number, from 0.
      local_id: its number among those on this host, from 0.
      local_count: how many are on this host, as far as the variables say.
      address: HOST:PORT at which process 0 lets the others join; "" where the variables do not say
        it, as those of Open MPI on several hosts.
    """

    kind: str
    num_processes: int
    process_id: int
    local_id: int = 0
    local_count: int = 1
    address: str = ""


def find(environ=os.environ):
    """The Cluster that the environment names; None: this process is alone.

    Raises:
      ValueError: in a whole sentence, where some variables are set and others missing, or they
        contradict each other.
    """
    if all(name in environ for name in JAX):  # whatever else is set
        return _jax(environ, None)
    by_launcher = _open_mpi(environ) or _slurm(environ) or _tpu(environ)
    return _jax(environ, by_launcher) or by_launcher


def devices_of(cluster, environ=os.environ):
    """Which of the GPUs that this process may see are its own, where a host has several processes.

    Args:
      cluster: a Cluster, or None.
      environ: the environment.

    Returns:
      Their numbers, from 0; None: all that it sees. JAX_LOCAL_DEVICE_IDS says it, or else they are
      divided evenly, unless Slurm has done so already.
    """
    if text := environ.get("JAX_LOCAL_DEVICE_IDS"):
        numbers = [whole(part) for part in text.split(",")]
        if None in numbers:
            raise ValueError(f"JAX_LOCAL_DEVICE_IDS is {text!r}: give numbers such as 0,1.")
        return numbers
    if cluster is None or cluster.local_count == 1:
        return None
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    on_host = whole(environ.get("SLURM_GPUS_ON_NODE", "")) or _gpus()
    count = on_host if visible is None else len(visible.split(","))
    is_bound = cluster.kind == "Slurm" and count < on_host
    each = count // cluster.local_count
    if is_bound or not each:
        return None
    return [*range(cluster.local_id * each, (cluster.local_id + 1) * each)]


def _gpus():
    """How many NVIDIA GPUs this host has."""
    return sum(re.fullmatch(r"nvidia\d+", name) is not None for name in os.listdir("/dev"))


def _jax(environ, by_launcher):
    given = {name: environ[name] for name in JAX if name in environ}
    if not given:
        return None
    address = given.get("JAX_COORDINATOR_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if "JAX_COORDINATOR_ADDRESS" in given and not (host and whole(port, 2**16 - 1)):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}: give a host and a port, such as host0:1234."
        )
    if {*given} == {"JAX_COORDINATOR_ADDRESS"} and by_launcher:
        return None  # which has taken it
    if "JAX_NUM_PROCESSES" in given and "JOB_COMPLETION_INDEX" in environ:
        given.setdefault("JAX_PROCESS_ID", environ["JOB_COMPLETION_INDEX"])
    numbers = {name: _number(given, name) for name in JAX[1:] if name in given}
    count, number = map(numbers.get, JAX[1:])
    if count == 0:
        raise ValueError("JAX_NUM_PROCESSES is 0: give the number of processes, at least 1.")
    if count is not None and number is not None and number >= count:
        raise ValueError(
            f"JAX_PROCESS_ID is {number}: of JAX_NUM_PROCESSES {count} processes the last is "
            f"{count - 1}."
        )
    if count == 1 and not by_launcher:
        return None
    if missing := [name for name in JAX if name not in given]:
        raise ValueError(
            f"{_words(given)} set, but {_words(missing)} not: set {_list(JAX)} in every process, "
            "or none of them."
        )
    return Cluster("JAX", count, number, address=address) if count > 1 else None


def _open_mpi(environ):
    names = [f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")]
    if not (several := _several(environ, names[0], names[1:])):
        return None
    count, number, local_id, local_count = several
    job = environ.get("OMPI_MCA_orte_hnp_uri") or environ.get("PMIX_NAMESPACE", "")
    address = environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not address and local_count == count:
        address = f"localhost:{_port(environ, zlib.crc32(job.encode()))}"
    return Cluster("Open MPI", count, number, local_id, local_count, address)


def _slurm(environ):
    others = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")
    if not (several := _several(environ, "SLURM_STEP_NUM_TASKS", others)):
        return None
    count, number, local_id, job = several
    hosts = environ.get("SLURM_STEP_NODELIST")
    if not (address := environ.get("JAX_COORDINATOR_ADDRESS", "")):
        if not hosts:
            raise _missing(environ, "SLURM_STEP_NUM_TASKS", ["SLURM_STEP_NODELIST"])
        step = whole(environ.get("SLURM_STEP_ID", "")) or 0
        address = f"{_first_host(hosts)}:{_port(environ, job + 1009 * step)}"
    per_node = _per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = whole(environ.get("SLURM_NODEID", "")) or 0
    local_count = per_node[node] if node < len(per_node) else 1
    return Cluster("Slurm", count, number, local_id, max(local_count, local_id + 1), address)


def _first_host(hosts):
    """The first of Slurm's list of hosts: node007 for `node[007-010,12],other`."""
    first = re.match(r"([^,\[]|\[[^\]]*\])*", hosts)[0]
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)


def _per_node(text):
    """Slurm's numbers of tasks by host: [2, 2, 1] for `2(x2),1`."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in parts for _ in range(int(times or 1))]


def _tpu(environ):
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if not hosts:
        found = metadata.tpu_workers(environ)
        if found is None:
            for name, most in (("MEGASCALE_NUM_SLICES", 1), ("TPU_WORKER_ID", 0)):
                if (whole(environ.get(name, "")) or 0) > most:
                    raise _missing(environ, name, ["TPU_WORKER_HOSTNAMES"])
            return None
        environ = {**found, **environ}
        hosts = environ["TPU_WORKER_HOSTNAMES"]
    hosts = hosts.split(",")
    slices = whole(environ.get("MEGASCALE_NUM_SLICES", "1"))
    if not slices:
        raise ValueError(
            f"MEGASCALE_NUM_SLICES is {environ['MEGASCALE_NUM_SLICES']!r}: give a whole number, "
            "at least 1."
        )
    if len(hosts) * slices == 1:
        return None
    needed = ["TPU_WORKER_ID"] * (len(hosts) > 1)
    needed += ["MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS"] * (slices > 1)
    if any(not environ.get(name) for name in needed):
        raise _missing(environ, "TPU_WORKER_HOSTNAMES", needed)
    worker = _number(environ, "TPU_WORKER_ID") if len(hosts) > 1 else 0
    number = _number(environ, "MEGASCALE_SLICE_ID") if slices > 1 else 0
    for name, value, count in (
        ("TPU_WORKER_ID", worker, len(hosts)),
        ("MEGASCALE_SLICE_ID", number, slices),
    ):
        if value >= count:
            raise ValueError(f"{name} is {value}: of {count} the last is {count - 1}.")
    address = environ.get("JAX_COORDINATOR_ADDRESS", "")
    if not address:
        first = environ["MEGASCALE_COORDINATOR_ADDRESS"] if slices > 1 else hosts[0]
        address = f"{first.split(':')[0]}:{environ.get('JAX_COORDINATOR_PORT', TPU_PORT)}"
    return Cluster("TPU", len(hosts) * slices, number * len(hosts) + worker, address=address)


def _several(environ, size, others):
    """The numbers of variables, if that named `size` is there and over 1; else None."""
    if size not in environ or _number(environ, size) == 1:
        return None
    if any(name not in environ for name in others):
        raise _missing(environ, size, others)
    count, number, *rest = (_number(environ, name) for name in (size, *others))
    if number >= count:
        raise ValueError(
            f"{others[0]} is {number}: of {size} {count} processes the last is {count - 1}."
        )
    return count, number, *rest


def _port(environ, job):
    return environ.get("JAX_COORDINATOR_PORT") or 2**16 - PORTS + job % PORTS


def _number(environ, name):
    if (number := whole(environ[name])) is None:
        raise ValueError(f"{name} is {environ[name]!r}: give a whole number.")
    return number


def _missing(environ, size, names):
    missing = [name for name in names if not environ.get(name)]
    return ValueError(
        f"{size} names several processes, but {_words(missing)} not set: set all of them, or unset "
        f"{size} to run this process alone."
    )


def _words(names):
    return f"{_list([*names])} {'are' if len(names) > 1 else 'is'}"


def _list(names):
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
