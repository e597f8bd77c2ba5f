"""Compiled programs that are kept for the next start, also on the emulator of gs://."""

import os
from unittest import mock

import jax
import pytest

from jaxdiff import cli, files
from jaxdiff.errors import UserError
from tests.disk import with_mode
from tests.object_storage import emulator
from tests.programs import run_together

# Prints how many programs are compiled, and how many read from the cache.
PROGRAM = """
import collections
import jax
from jaxdiff import cli
from jaxdiff.parallel.mesh import make_mesh
parser = cli.Parser("Compiles something")
cli.add_distributed(parser)
def main(args):
    cli.start_jax(args.distributed, args.compilation_cache)
    events = collections.Counter()
    jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
    make_mesh()
    print(*(events[f"/jax/compilation_cache/cache_{n}"] for n in ("misses", "hits")), flush=True)
cli.run(main, parser)
"""


@pytest.fixture
def options():
    """What is set in JAX, which is restored afterwards."""
    changed = {}
    with mock.patch.object(jax.config, "update", changed.__setitem__):
        yield changed


def test_the_folder_is_made_and_set(tmp_path, options):
    folder = tmp_path / "kept" / "xla"
    for _ in range(2):
        cli.start_jax(False, str(folder))
        assert options["jax_compilation_cache_dir"] == str(folder)
    assert os.listdir(folder) == ["about.txt"]
    with with_mode(folder, 0o555):  # it may be read only
        cli.start_jax(False, str(folder))


def test_what_cannot_be_opened_is_refused(tmp_path, options):
    (tmp_path / "file").touch()
    for folder, words in (
        (str(tmp_path / "file" / "xla"), "cannot be written"),
        ("", "--compilation_cache is empty"),
        ("ftp://host/xla", "--compilation_cache is ftp://host/xla"),
    ):
        with pytest.raises(UserError, match=words):
            cli.start_jax(False, folder)
    assert "jax_compilation_cache_dir" not in options


@pytest.mark.slow
def test_a_folder_on_gs_is_read_at_the_next_start(options):
    """By process 0. On CPUs JAX looks for programs of several processes by other names in others.

    There a topology, of which a program's name is made, is of the devices of one process.
    """
    with emulator() as bucket:
        flag = f"--compilation_cache={bucket}/xla"
        first, second = (run_together("-c", PROGRAM, flag)[0].split() for _ in range(2))
        misses, hits = map(int, first[-2:])
        assert misses > 0
        assert hits == 0
        assert any(name.endswith("-cache") for name in files.walk(bucket / "xla"))
        assert [*map(int, second[-2:])] == [0, misses]
        with pytest.raises(UserError, match="gs://no-bucket/xla"):
            cli.start_jax(False, "gs://no-bucket/xla")
