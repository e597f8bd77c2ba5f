import time

import jax
import pytest

from jaxdiff import cli
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes, watchdog
from jaxdiff.parallel.cluster import Cluster

CLUSTER = Cluster("JAX", 2, 1, address="host0:1234")


@pytest.fixture
def joined(monkeypatch):
    """What jax.distributed.initialize is called with, and what begins afterwards."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **kw: calls.append((a, kw)))
    monkeypatch.setattr(watchdog, "begin", lambda *place: calls.append(place))
    monkeypatch.setattr(watchdog, "_name", None)
    return calls


def test_others_are_joined_and_watched(joined, monkeypatch):
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "2,3")
    processes.initialize(None)
    assert joined == []
    processes.initialize(CLUSTER)
    (arguments, options), place = joined
    assert arguments == ("host0:1234", 2, 1, [2, 3])
    assert options["heartbeat_timeout_seconds"] < 60
    assert place == (1, 2)
    with pytest.raises(ValueError, match="mpirun -x JAX_COORDINATOR_ADDRESS="):
        processes.initialize(Cluster("Open MPI", 4, 3))


def test_one_that_waits_says_so(monkeypatch, capfd):
    monkeypatch.setattr(processes, "SECONDS_TO_JOIN", 0.01)

    def initialize(*_, **__):
        time.sleep(0.2)
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="Process 1 of 2 .* at host0:1234 .*DEADLINE"):
        processes.initialize(CLUSTER)
    said = capfd.readouterr().err
    assert "waits up to 5 minutes for the others at host0:1234" in said


def test_arrays_of_one_process_are_gathered_by_it_alone(monkeypatch):
    monkeypatch.setattr(processes, "multihost_utils", None)
    assert processes.gather({"x": jax.numpy.arange(3)})["x"].tolist() == [0, 1, 2]


def test_numbers_of_all_processes(monkeypatch):
    assert processes.everywhere(3) == [3]
    assert processes.first_where(True) == 0
    assert processes.first_where(False) is None
    monkeypatch.setattr(processes, "count", lambda: 3)
    for flags, first in (([0, 1, 1], 1), ([0, 0, 0], None), ([1, 0, 1], 0)):
        monkeypatch.setattr(processes, "everywhere", lambda _, flags=flags: flags)
        assert processes.first_where(False) == first
    monkeypatch.setattr(processes, "everywhere", lambda number: [number, number])
    assert processes.same_everywhere("a")
    monkeypatch.setattr(processes, "everywhere", lambda number: [number, number + 1])
    assert not processes.same_everywhere("a")


def test_the_others_are_joined_without_a_flag(joined, monkeypatch):
    for name, value in (
        ("JAX_COORDINATOR_ADDRESS", "host0:1234"),
        ("JAX_NUM_PROCESSES", "2"),
        ("JAX_PROCESS_ID", "1"),
    ):
        monkeypatch.setenv(name, value)
        if name != "JAX_PROCESS_ID":
            with pytest.raises(UserError, match="JAX_PROCESS_ID"):
                cli.start_jax()
    assert cli.start_jax(False) is None
    assert cli.start_jax_alone() == CLUSTER
    assert joined == []
    for distributed in (None, True):
        assert cli.start_jax(distributed) == CLUSTER
    assert [each[0][:3] for each in joined[::2]] == [("host0:1234", 2, 1)] * 2


def test_others_that_are_required_must_be_named(joined):
    assert cli.start_jax() is None
    with pytest.raises(UserError, match="--distributed finds no other processes"):
        cli.start_jax(True)
    assert joined == []


def test_processes_that_sample_divide_the_gpus_of_a_host(monkeypatch):
    monkeypatch.setattr(watchdog, "_name", None)
    names = {"SIZE": "4", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}
    for name, value in names.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    changed = {}
    monkeypatch.setattr(
        type(jax.config), "update", lambda _, name, value: changed.update({name: value})
    )
    found = cli.start_jax_alone()
    assert (found.kind, found.process_id) == ("Open MPI", 1)
    assert changed["jax_cuda_visible_devices"] == "2,3"
    assert watchdog.line("No.").endswith(": process 1 of 4: No.")
