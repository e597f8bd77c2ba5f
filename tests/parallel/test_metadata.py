"""A server of this test in place of Google's, with what the documentation says of its keys."""

import contextlib
import http.server
import os
import signal
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from jaxdiff.parallel import metadata
from jaxdiff.parallel.cluster import Cluster
from tests.programs import wait_for

NONE = {"maintenance-event": "NONE", "preempted": "FALSE"}


class Server(http.server.ThreadingHTTPServer):
    """Answers for keys below instance/, and waits for their changes where it is asked to."""

    daemon_threads = True

    def __init__(self, values):
        super().__init__(("localhost", 0), Handler)
        self.values, self.changed = dict(values), threading.Condition()
        self.waiting = self.refused = 0  # questions
        self.is_down = False
        self.environ = {"GCE_METADATA_HOST": f"localhost:{self.server_port}"}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def set(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url, server = urlsplit(self.path), self.server
        key = url.path.removeprefix("/computeMetadata/v1/instance/")
        asked = parse_qs(url.query)
        with server.changed:
            if key not in server.values or self.headers["Metadata-Flavor"] != "Google":
                self.send_error(404)
                return
            if server.is_down:
                server.refused += 1
                self.send_error(503)
                return
            if asked.get("wait_for_change") == ["true"]:
                known = asked.get("last_etag", [self.etag(key)])[0]
                server.waiting += 1
                server.changed.wait_for(lambda: self.etag(key) != known, timeout=20)
            body = server.values[key].encode()
        self.send_response(200)
        self.send_header("ETag", self.etag(key))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def etag(self, key):
        return f"etag-{self.server.values[key]}"

    def log_message(self, *_):
        pass


@pytest.fixture
def received():
    """Numbers of the signals that this process has received."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def serve(received):
    """Begins servers; at the end their notices end the threads, which would watch on and on."""
    with contextlib.ExitStack() as stack:

        def begin(values):
            server = stack.enter_context(Server(values))
            stack.callback(server.shutdown)
            stack.callback(end, server)
            return server

        yield begin


def end(server):
    server.is_down = False
    for key, ending in metadata.ENDINGS.items():
        server.set(key, f"{ending} at last")
    threads = [each for each in threading.enumerate() if each.name.startswith("watch ")]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("key", "value"),
    [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")],
)
def test_an_end_of_the_machine_ends_the_program(key, value, serve, received):
    server = serve(NONE)
    assert metadata.watch(environ=server.environ)
    wait_for(lambda: server.waiting == 2, 20)
    assert received == []
    server.set(key, value)
    wait_for(lambda: received, 20)
    assert received == [signal.SIGTERM]


def test_a_machine_that_ends_already_is_left_at_once(serve, received):
    server = serve({**NONE, "preempted": "TRUE"})
    metadata.watch(environ=server.environ)
    wait_for(lambda: received, 20)


def test_moving_to_another_host_and_old_notices_are_no_end(serve, received):
    server = serve({**NONE, "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
    metadata.watch(environ=server.environ)
    wait_for(lambda: server.waiting == 2, 20)
    for number, value in enumerate(("NONE", "MIGRATE_ON_HOST_MAINTENANCE"), 3):
        server.set("maintenance-event", value)
        wait_for(lambda number=number: server.waiting == number, 20)
    time.sleep(0.1)
    assert received == []


def test_what_a_server_does_not_answer_is_neither_an_end_nor_missed(serve, received, monkeypatch):
    monkeypatch.setattr(metadata, "RETRY", 0.05)
    server = serve({**NONE, "maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
    server.is_down = True
    metadata.watch(environ=server.environ)
    wait_for(lambda: server.refused > 3, 20)
    server.is_down = False
    wait_for(lambda: server.waiting == 2, 20)
    assert received == [], "it may have been announced before"
    server.is_down, server.refused = True, 0
    server.set("preempted", "FALSE ")  # answers the question that waits
    wait_for(lambda: server.refused > 1, 20)
    server.set("preempted", "TRUE")
    server.is_down = False
    wait_for(lambda: received, 10)


def test_only_machines_of_google_are_asked(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(metadata, "_watch", lambda key, *_: begun.append(key))
    monkeypatch.setattr(metadata, "PRODUCT", tmp_path / "product_name")
    assert not metadata.watch(environ={})
    (tmp_path / "product_name").write_text("Standard PC\n")
    assert not metadata.watch(Cluster("Slurm", 2, 0), {})
    assert begun == []
    assert metadata.watch(Cluster("TPU", 2, 0), {})
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert metadata.watch(environ={})
    wait_for(lambda: len(begun) == 4, 20)


def test_a_key_that_is_not_there(serve):
    server = serve(NONE)
    assert metadata.get("attributes/tpu-env", server.environ) is None
    assert metadata.get("preempted", server.environ) == "FALSE"
    assert metadata.get("preempted", {"GCE_METADATA_HOST": "localhost:1"}) is None
    assert os.environ.get("GCE_METADATA_HOST") is None
