import jax
import pytest

from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, placed
from jaxdiff.training import fitting
from jaxdiff.training.task import Task
from tests import tiny

PARAMETERS = 184_514  # of the tiny network
# Parameters, Adam's two moments, one average, and the gradient; all float32.
STATE = 5 * 4 * PARAMETERS
# Of 16 images of 8 x 8: the numbers and their noise, and 32 channels of the first layer.
BATCH = 16 * 64 * (8 + 32 * 4)


def check(limit, monkeypatch, devices=1, **overrides):
    config = tiny.config(**overrides)
    mesh = make_mesh(1, jax.devices()[:devices])
    shapes = jax.eval_shape(Task.of(config).init)
    template = placed(shapes, parameter_sharding(mesh, shapes))
    monkeypatch.setattr(fitting, "device_memory", lambda: limit)
    fitting.check_fits(config, template, mesh, "lower training.batch_size")


def test_what_cannot_fit_is_refused(monkeypatch):
    check(STATE + BATCH + 1000, monkeypatch)  # a few counts are kept beside
    with pytest.raises(UserError, match="lower training.batch_size"):
        check(STATE + BATCH - 1, monkeypatch)
    with pytest.raises(UserError, match="model.channels"):
        check(STATE - 1, monkeypatch)


def test_devices_and_accumulation_share_a_batch(monkeypatch):
    share = 16 / 2 * 64 * (8 + 32 * 4 / 4)
    fields = {"devices": 2, "training__accumulate": 4}
    check(STATE + share + 1000, monkeypatch, **fields)
    with pytest.raises(UserError, match="batch_size"):
        check(STATE + share - 1, monkeypatch, **fields)
