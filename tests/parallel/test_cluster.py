"""Clusters by the environments of Slurm, Open MPI, TPUs and Kubernetes, as their manuals say."""

import subprocess
import sys

import pytest

from jaxdiff.parallel import cluster, metadata
from jaxdiff.parallel.cluster import Cluster, devices_of, find
from tests.conftest import ROOT

JAX = {
    "JAX_COORDINATOR_ADDRESS": "host0:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}
BATCH = {  # a script of sbatch, and a shell of salloc, for two nodes of four tasks
    "SLURM_JOB_ID": "70001",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "node[007-008]",
    "SLURM_TASKS_PER_NODE": "4(x2)",
}
TASK = {  # task 5 of srun in it
    **BATCH,
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
ON_ONE_HOST = {**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_NAMESPACE": "prterun-host-7@1"}
TPU = {"TPU_WORKER_HOSTNAMES": "t-0.sub,t-1.sub,t-2.sub,t-3.sub", "TPU_WORKER_ID": "3"}
SLICES = {
    **TPU,
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "first-0.sub:8080",
}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (JAX, Cluster("JAX", 4, 2, address="host0:1234")),
        ({**TASK, **JAX}, Cluster("JAX", 4, 2, address="host0:1234")),
        ({"SLURM_STEP_NUM_TASKS": "8", **JAX}, Cluster("JAX", 4, 2, address="host0:1234")),
        (  # an indexed Job of Kubernetes
            {n: v for n, v in JAX.items() if n != "JAX_PROCESS_ID"} | {"JOB_COMPLETION_INDEX": "1"},
            Cluster("JAX", 4, 1, address="host0:1234"),
        ),
        # 70001 = 17 * 4096 + 369, the port that JAX takes too: 61440 + 369.
        (TASK, Cluster("Slurm", 8, 5, 1, 4, "node007:61809")),
        ({**TASK, "JAX_COORDINATOR_PORT": "99"}, Cluster("Slurm", 8, 5, 1, 4, "node007:99")),
        (
            {**TASK, "JAX_COORDINATOR_ADDRESS": "login:1"},
            Cluster("Slurm", 8, 5, 1, 4, "login:1"),
        ),
        (
            {**MPI, "JAX_COORDINATOR_ADDRESS": "host0:1234"},
            Cluster("Open MPI", 4, 3, 1, 2, "host0:1234"),
        ),
        (MPI, Cluster("Open MPI", 4, 3, 1, 2)),  # enough for sampling, which does not join
        (  # mpirun in a job of Slurm starts its daemons by srun, one a node
            {**TASK, **MPI, "JAX_COORDINATOR_ADDRESS": "host0:1234"},
            Cluster("Open MPI", 4, 3, 1, 2, "host0:1234"),
        ),
        (TPU, Cluster("TPU", 4, 3, address="t-0.sub:8482")),
        (SLICES, Cluster("TPU", 8, 7, address="first-0.sub:8482")),
        (
            {**SLICES, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
            Cluster("TPU", 2, 1, address="first-0.sub:8482"),
        ),
    ],
)
def test_several_processes(environ, expected):
    assert find(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        BATCH,
        {**BATCH, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "node007"},  # salloc's shell
        {**MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},  # mpirun -n 1
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},  # a single TPU host
        {"JAX_NUM_PROCESSES": "1"},
        {**JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {**TASK, **JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {"TPU_WORKER_ID": "0"},
        {"JAX_COORDINATOR_PORT": "1234", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"JOB_COMPLETION_INDEX": "3"},
    ],
)
def test_one_process(environ):
    assert find(environ) is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
        ({"JAX_NUM_PROCESSES": "²"}, "JAX_NUM_PROCESSES is '²'"),
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES is ''"),
        ({"JAX_NUM_PROCESSES": "-1"}, "JAX_NUM_PROCESSES is '-1'"),
        ({"JAX_NUM_PROCESSES": "0"}, "JAX_NUM_PROCESSES is 0"),
        ({"JAX_NUM_PROCESSES": "9" * 5000}, "JAX_NUM_PROCESSES is"),
        ({"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first'"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost"}, "JAX_COORDINATOR_ADDRESS is 'localhost'"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:99999"}, "'localhost:99999'"),
        ({"JAX_COORDINATOR_ADDRESS": ":1234"}, "':1234'"),
        (
            {"JAX_COORDINATOR_ADDRESS": "host0:1234"},
            "JAX_COORDINATOR_ADDRESS is set, but JAX_NUM_PROCESSES and JAX_PROCESS_ID are not",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, but JAX_COORDINATOR_ADDRESS is not",
        ),
        ({**TASK, "SLURM_PROCID": "8"}, "SLURM_PROCID is 8: of SLURM_STEP_NUM_TASKS 8"),
        ({n: v for n, v in TASK.items() if n != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
        (
            {n: v for n, v in TASK.items() if n != "SLURM_STEP_NODELIST"},
            "SLURM_STEP_NODELIST is not set",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, "LOCAL_RANK and OMPI"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID is not set"),
        ({"TPU_WORKER_ID": "1"}, "TPU_WORKER_HOSTNAMES is not set"),
        ({"MEGASCALE_NUM_SLICES": "2"}, "TPU_WORKER_HOSTNAMES is not set"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "2"}, "TPU_WORKER_ID is 2"),
        ({**TPU, "MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_SLICE_ID and MEGASCALE_COORD"),
        ({**SLICES, "MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_SLICE_ID is 2"),
        ({**SLICES, "MEGASCALE_NUM_SLICES": "x"}, "MEGASCALE_NUM_SLICES is 'x'"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(environ, words):
    with pytest.raises(ValueError, match=words):
        find(environ)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[001,007-015],host2", "node001"),
        ("rack[2-3]node[04-07]-ib,x", "rack2node04-ib"),
    ],
)
def test_the_first_host_of_slurms_lists(hosts, first):
    assert find({**TASK, "SLURM_STEP_NODELIST": hosts}).address == f"{first}:61809"


def test_open_mpi_on_one_host_needs_no_address():
    found = find(ON_ONE_HOST)
    host, port = found.address.split(":")
    assert host == "localhost"
    assert 61440 <= int(port) < 65536
    other = find({**ON_ONE_HOST, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})
    assert other.address == found.address


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({**TASK, "SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [2, 3]),
        ({**TASK, "SLURM_GPUS_ON_NODE": "8"}, [2, 3]),
        ({**TASK, "SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),
        # srun --gpus-per-task
        ({**TASK, "SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "2,3"}, None),
        ({**TASK, "SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "1"}, None),
        # a task a node has all of its GPUs
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_LOCALID": "0"}, None),
        ({**ON_ONE_HOST, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [1]),
        ({**ON_ONE_HOST, "CUDA_VISIBLE_DEVICES": "3"}, None),  # by a script around the program
        ({**JAX, "JAX_LOCAL_DEVICE_IDS": "4,5"}, [4, 5]),
        (JAX, None),
        (TPU, None),
        ({}, None),
    ],
)
def test_the_gpus_of_a_host_are_divided(environ, devices, monkeypatch):
    monkeypatch.setattr(cluster, "_gpus", lambda: 0)
    assert devices_of(find(environ), environ) == devices


def test_a_tpu_vm_asks_its_metadata_server(monkeypatch):
    values = {
        "attributes/agent-worker-number": "1",
        "attributes/worker-network-endpoints": "unknown:0:10.0.0.2,unknown:1:10.0.0.3",
        "attributes/tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9:8081'\n",
    }
    monkeypatch.setattr(metadata, "get", lambda key, environ: values.get(key))
    assert find({}) is None  # where there is no TPU
    monkeypatch.setattr(metadata, "_has_tpu", lambda: True)
    assert find({}) == Cluster("TPU", 4, 3, address="10.0.0.9:8482")
    del values["attributes/tpu-env"]
    assert find({}) == Cluster("TPU", 2, 1, address="10.0.0.2:8482")
    assert find({"TPU_SKIP_MDS_QUERY": "1"}) is None
    values.clear()
    assert find({}) is None


def test_the_search_imports_no_jax():
    code = "import sys, jaxdiff.parallel.cluster as c; c.find(); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
