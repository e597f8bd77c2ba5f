"""The ends of several processes, with a dictionary in place of JAX's store."""

import threading

import jax
import pytest

from jaxdiff import cli
from jaxdiff.errors import UserError, elsewhere
from jaxdiff.parallel import watchdog
from tests.programs import wait_for


class Ended(BaseException):
    """In place of os._exit."""


@pytest.fixture
def store(monkeypatch):
    """What the store holds; this process is 1 of 3."""
    values = {}

    def attempt(method, key, value=None, overwrite=False):
        if method == "key_value_set":
            values[key] = value if overwrite else values.get(key, value)
        elif method == "key_value_try_get":
            return values.get(key)
        elif method == "key_value_dir_get":
            return [(name, text) for name, text in values.items() if name.startswith(f"{key}/")]
        return None

    def leave(status):
        raise Ended(status)

    monkeypatch.setattr(watchdog, "_try", attempt)
    monkeypatch.setattr(watchdog, "EVERY", 0.02)
    monkeypatch.setattr(watchdog, "GRACE", 0.2)
    monkeypatch.setattr(watchdog, "_place", (1, 3))
    monkeypatch.setattr(watchdog, "_name", (1, 3))
    monkeypatch.setattr(watchdog.os, "_exit", leave)
    return values


def fail(process, status=1, sentence="The disk is full."):
    """What process `process` of 3 writes before it ends."""
    before, watchdog._place = watchdog._place, (process, 3)
    with pytest.raises(Ended) as caught:
        watchdog.end(status, sentence)
    watchdog._place = before
    assert caught.value.args == (status,)


def run(error):
    """The status of a command that raises an error."""

    def main(args):
        raise error

    with pytest.raises(Ended) as caught:
        cli.run(main, cli.Parser("Fails."), [])
    return caught.value.args[0]


@pytest.fixture(autouse=True)
def _signals():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (3, 1), (143, 143), (130, 130)])
def test_the_others_follow_and_say_why(store, capfd, status, expected):
    fail(2, status)
    with pytest.raises(Ended) as caught:
        watchdog._watch()
    assert caught.value.args == (expected,)
    said = capfd.readouterr().err
    assert "process 1 of 3: Process 2 of 3 (" in said
    assert said.endswith(") has ended: The disk is full.\n")
    assert "jaxdiff/seen/1" in store


def test_a_pipe_that_nobody_reads_keeps_no_process(store, monkeypatch):
    fail(2)
    read = threading.Event()
    for name in ("say", "_flush"):
        monkeypatch.setattr(watchdog, name, lambda *_: read.wait())
    with pytest.raises(Ended):
        watchdog._watch()
    read.set()


def test_the_first_that_fails_is_the_cause(store):
    fail(2)
    fail(1, sentence="Another thing.")
    assert watchdog.other().sentence == "The disk is full."
    watchdog._place = (2, 3)
    assert watchdog.other() is None, "its own end"


def test_process_0_ends_last(store, monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE", 60.0)
    monkeypatch.setattr(watchdog, "_place", (0, 3))
    ended = []

    def end():
        with pytest.raises(Ended):
            watchdog.end(1, "The disk is full.")
        ended.append(True)

    thread = threading.Thread(target=end)
    thread.start()
    wait_for(lambda: store, 10)
    store["jaxdiff/seen/1"] = ""
    thread.join(0.3)
    assert not ended
    store["jaxdiff/seen/2"] = ""
    thread.join(10)
    assert ended


def test_process_0_waits_for_no_lost_process(store, monkeypatch):
    monkeypatch.setattr(watchdog, "_place", (0, 3))
    with pytest.raises(Ended):
        watchdog.end(1, "The disk is full.")


def test_process_0_says_of_whom_it_has_not_heard(store, monkeypatch, capfd):
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    heard = {}

    def beat(*processes):
        for process in (*processes, 0):
            monkeypatch.setattr(watchdog, "_place", (process, 3))
            watchdog._beat(heard)
        return capfd.readouterr().err

    assert beat(1, 2) == ""
    for clock[0], processes, said in (
        (6.0, (1, 2), False),
        (12.0, (1,), False),
        (17.0, (1,), True),
        (18.0, (1,), False),  # once
        (19.0, (1, 2), False),  # there again
        (30.0, (1,), True),
    ):
        assert ("Process 2 of 3 (" in beat(*processes)) == said, clock


def test_errors_carry_the_process(store, capfd):
    assert run(UserError("One\n sentence.")) == 1
    assert capfd.readouterr().err.endswith(": process 1 of 3: One sentence.\n")
    assert "One sentence." in store["jaxdiff/failed"]


def test_a_bug_keeps_its_traceback(store, capfd):
    assert run(ZeroDivisionError("by zero")) == 1
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert said.endswith("process 1 of 3: ZeroDivisionError: by zero\n")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer"),
        elsewhere(UserError("Process 2 says it.")),
    ],
    ids=["connection", "sentence"],
)
def test_who_did_not_fail_says_whose_failure_it_is(store, capfd, error):
    thread = threading.Timer(0.1, fail, (2, 143))
    thread.start()
    assert run(error) == 143
    thread.join()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "process 1 of 3: Process 2 of 3 (" in said


def test_a_lost_process_is_named_by_nobody(store, capfd, monkeypatch):
    monkeypatch.setattr(cli, "SECONDS_TO_SAY_WHY", 0.1)
    assert run(jax.errors.JaxRuntimeError("Connection closed by peer")) == 1
    assert "Connection closed by peer" in store["jaxdiff/failed"]
