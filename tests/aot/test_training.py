"""The real training step, compiled for accelerators that are not there."""

import dataclasses
import re
from typing import Any

import jax
import pytest

from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.plan import kinds, programs
from tests.aot import absent

# What a step sums beside the gradient is metrics, counts and norms.
FEW = 2**17


@dataclasses.dataclass(frozen=True)
class Step:
    """A lowered and compiled step, its mesh's fsdp, and the shapes of its State."""

    fsdp: int
    state: Any
    source: str
    compiled: Any

    def bytes_by_kind(self):
        sums = {}
        for each in kinds.collectives(self.compiled.as_text()):
            sums[each.kind] = sums.get(each.kind, 0) + each.bytes
        return sums


# One compilation takes most of a minute: in the suite, the one of which the most is asked.
STEPS = [
    pytest.param("v5e:4x4 1", marks=pytest.mark.slow),
    "v5e:4x4 8",
    pytest.param("h100:8 1", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=STEPS)
def step(request):
    text, fsdp = request.param.split()
    mesh = make_mesh(int(fsdp), absent.topology(text).devices())
    (program,) = programs.training(absent.config(mesh__fsdp=int(fsdp)), mesh)
    lowered = program.lower()
    return Step(int(fsdp), program.arguments[0], lowered.as_text(), lowered.compile())


def test_devices_sum_gradients_and_gather_what_is_split_alone(step):
    parameters = sum(leaf.size for leaf in jax.tree.leaves(step.state.params))
    sent = step.bytes_by_kind()
    if step.fsdp == 1:
        # The gradient is summed once, in two or four bytes a value, and nothing else is sent.
        assert set(sent) == {"all-reduce"}
        assert 2 * parameters <= sent["all-reduce"] <= 4 * parameters + FEW
    else:
        # Parameters are gathered for the forward pass, or for the backward pass again; gradients
        # are summed where they are kept.
        assert 0.9 * 2 * parameters <= sent["all-gather"] <= 2 * 4 * parameters + FEW
        # Of small arrays the compiler sums the whole, and keeps a part.
        assert sent["reduce-scatter"] > FEW
        assert 2 * parameters <= sent["reduce-scatter"] + sent["all-reduce"] <= 8 * parameters
        assert sent.get("all-to-all", 0) + sent.get("collective-permute", 0) < FEW


def test_the_state_is_updated_in_place(step):
    leaves = jax.tree.leaves(step.state)
    header = step.compiled.as_text().partition("\n")[0]
    aliases = re.findall(r"\{(\d+)\}: \((\d+), \{\}, (?:may|must)-alias\)", header)
    assert {int(result) for result, _ in aliases} >= set(range(len(leaves)))
    shards = [leaf.sharding.shard_shape(leaf.shape) for leaf in leaves]
    held = sum(4 * jax.numpy.prod(jax.numpy.array(shard)).item() for shard in shards)
    assert step.compiled.memory_analysis().alias_size_in_bytes >= held


def test_networks_compute_in_bfloat16_and_the_state_is_float32(step):
    convolutions = re.findall(r"stablehlo\.convolution.*: \((.*?)\)", step.source)
    others = [operands for operands in convolutions if operands.count("bf16") < 2]
    # The last layer and its two derivatives are in float32, as ADM's.
    assert len(convolutions) > 30
    assert len(others) == 3
    assert all("x3xf32" in operands for operands in others)
    kept = {str(leaf.dtype) for leaf in jax.tree.leaves((step.state.params, step.state.opt_state))}
    assert kept == {"float32", "int32"}
