import time

import jax
import pytest

from jaxdiff.parallel import processes, watchdog
from jaxdiff.parallel.cluster import Cluster

CLUSTER = Cluster("JAX", 2, 1, address="host0:1234")


@pytest.fixture
def joined(monkeypatch):
    """What jax.distributed.initialize is called with, and what begins afterwards."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **kw: calls.append((a, kw)))
    monkeypatch.setattr(watchdog, "begin", lambda *place: calls.append(place))
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
