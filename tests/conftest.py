"""Tests run on the CPU as eight fake devices; what JAX reads at import is set before it."""

import gc
import os
import pathlib
import signal
import sys
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Eight devices on two cores can deadlock in a collective without enough threads.
os.environ["PJRT_NPROC"] = "16"
# Programs compiled by one test are used by the next, and by the command lines that tests start.
# Each process of pytest has a folder of its own, as JAX writes such files without a lock.
CACHE = tempfile.TemporaryDirectory(prefix="jaxdiff-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{CACHE.name}/xla"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["TFDS_DATA_DIR"] = f"{CACHE.name}/tfds"
os.environ["JAXDIFF_CACHE"] = f"{CACHE.name}/data"

# Programs in the background of a shell ignore Ctrl-C, and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects that stay; as jaxdiff.cli has it for programs.
gc.set_threshold(100_000, 20, 100)

import jax  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests import object_storage  # noqa: E402


def pytest_xdist_auto_num_workers(config):
    """Two processes, or none beside this one for a single file."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else 2


@pytest.fixture(scope="session")
def goldens():
    """The folder of golden values that the repository holds."""
    return pathlib.Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def bucket():
    """A bucket of Google's storage that is served here: an epath, gs://tests."""
    with object_storage.emulator() as path:
        yield path


@pytest.fixture
def one_device():
    from jaxdiff.parallel.mesh import make_mesh

    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def alone():
    """One device for a module that does not ask about several: programs compile much faster."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        patch.setattr(jax, "local_devices", lambda *_: devices)
        yield
