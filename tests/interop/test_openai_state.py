"""Networks found in what training programs save."""

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.interop.openai_state import ANCHOR, find

WEIGHTS = {ANCHOR: np.ones((8, 2), np.float32), "out.2.bias": np.zeros(3, np.float32)}


def prefixed(prefix, weights=WEIGHTS):
    return {f"{prefix}{name}": array for name, array in weights.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.diffusion_model."]
)
def test_prefixes_are_left_out_and_said(prefix):
    found = find(prefixed(prefix), "a.pt")
    assert found.state_dict.keys() == WEIGHTS.keys()
    assert found.state_dict[ANCHOR] is WEIGHTS[ANCHOR]
    assert prefix in str(found)
    assert bool(str(found)) == bool(prefix)


def test_wrappers_of_single_layers_are_left_out():
    names = {"input_blocks.1._orig_mod.0.in_layers.0.weight": np.ones(2)}
    found = find({**WEIGHTS, **names}, "a.pt")
    assert "input_blocks.1.0.in_layers.0.weight" in found.state_dict


@pytest.mark.parametrize("entry", ["state_dict", "model", "ema", "net"])
def test_entries_of_a_checkpoint(entry):
    inner = prefixed("module.")
    optimizer = {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 1e-4}]}
    found = find({"epoch": 3, "opt": optimizer, entry: inner, "step": 70}, "a.pt")
    assert found.state_dict.keys() == WEIGHTS.keys()
    assert found.step == 70
    assert entry in str(found)
    deeper = find({"checkpoint": {entry: inner, "iteration": np.array(9)}}, "a.pt")
    assert deeper.state_dict.keys() == WEIGHTS.keys()
    assert deeper.place == ("checkpoint", entry)


def test_the_average_is_taken_where_there_is_one():
    other = {name: array + 1 for name, array in WEIGHTS.items()}
    for nested in (
        {"model": other, "ema": WEIGHTS},
        {"model": other, "model_ema": prefixed("module.")},
        {**prefixed("online_model.", other), **prefixed("ema_model.")},
    ):
        found = find(nested, "a.pt")
        assert (found.state_dict[ANCHOR] == 1).all()
        assert "ema" in str(found)
    for nested in (
        {"first": other, "second": WEIGHTS},
        {"ema_0.99": other, "ema_0.9999": WEIGHTS},
        {**prefixed("first.", other), **prefixed("second.")},
    ):
        with pytest.raises(UserError, match="several networks"):
            find(nested, "a.pt")


def test_counters_and_what_is_no_tensor_are_left_out_and_named():
    counters = {"num_batches_tracked": np.array(3), "step": np.array(12), "note": "text", 5: 1}
    found = find({**WEIGHTS, **counters}, "a.pt")
    assert found.state_dict.keys() == WEIGHTS.keys()
    assert found.step == 12
    assert "num_batches_tracked" in str(found)
    # A tensor with axes may be a weight, and is for the network to know.
    assert "extra" in find({**WEIGHTS, "extra": np.zeros(1)}, "a.pt").state_dict


def test_other_networks_and_odd_names_are_refused():
    itself = {"w": np.ones(2)}
    itself["again"] = itself
    for nested in ({}, {"conv_in.weight": np.ones(2)}, itself, {3: np.ones(3)}):
        with pytest.raises(UserError, match=ANCHOR):
            find(nested, "a.pt")
    for name in ("two\nlines", "long" * 1000, f"_orig_mod.{ANCHOR}"):
        with pytest.raises(UserError) as caught:
            find({**WEIGHTS, name: np.ones(2)}, "a.pt")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
