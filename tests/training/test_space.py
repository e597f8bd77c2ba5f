import pytest

from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.training.compiled import state_template
from jaxdiff.training.space import space
from jaxdiff.training.task import Task
from tests.training import linear

pytestmark = pytest.mark.usefixtures("alone")
# Of layers 16 -> 1024, 1 -> 1024 and 1024 -> 32, and 16 labels.
PARAMETERS = 1024 * (16 + 1 + 1 + 1 + 32 + 16) + 32


def of(**overrides):
    config = linear.config(**{f"training__{name}": value for name, value in overrides.items()})
    return space(config, state_template(Task.of(config), make_mesh()))


def test_a_checkpoint_has_parameters_two_moments_and_an_average():
    found = of(num_steps=100, checkpoint_every=10, snapshot_every=30)
    arrays = 4 * 4 * PARAMETERS
    assert arrays <= found.checkpoint <= arrays + 100  # counts of steps
    assert found.snapshot == 4 * PARAMETERS
    # Three are kept, and a fourth is written before the first goes.
    assert (found.checkpoints, found.snapshots) == (4, 3)
    assert found.total == 4 * found.checkpoint + 3 * found.snapshot


def test_few_checkpoints_several_averages_and_half_of_the_bits():
    found = of(num_steps=15, checkpoint_every=10, power_ema=(0.05, 0.1), snapshot_dtype="bfloat16")
    assert found.checkpoints == 2  # the second at the end
    assert found.snapshot == 2 * 2 * PARAMETERS
    assert found.checkpoint > 4 * 5 * PARAMETERS
