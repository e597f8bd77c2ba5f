"""Networks found in what training programs save."""

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.interop.openai_state import ANCHOR, find

WEIGHTS = {ANCHOR: np.ones((8, 2), np.float32), "out.2.bias": np.zeros(3, np.float32)}


def prefixed(prefix, weights=WEIGHTS):
    return {f"{prefix}{name}": array for name, array in weights.items()}


def test_prefixes_and_wrappers_are_left_out():
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod.", "model.diffusion_model."):
        found = find(prefixed(prefix), "a.pt")
        assert found.keys() == WEIGHTS.keys()
        assert found[ANCHOR] is WEIGHTS[ANCHOR]
    names = {"input_blocks.1._orig_mod.0.in_layers.0.weight": np.ones(2)}
    assert "input_blocks.1.0.in_layers.0.weight" in find({**WEIGHTS, **names}, "a.pt")


def test_entries_of_a_checkpoint():
    optimizer = {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 1e-4}]}
    for entry in ("state_dict", "model", "ema"):
        saved = {"epoch": 3, "opt": optimizer, entry: prefixed("module."), "step": np.array(70)}
        assert find(saved, "a.pt").keys() == WEIGHTS.keys()
        assert find({"checkpoint": saved}, "a.pt").keys() == WEIGHTS.keys()


def test_one_of_several_networks_is_named():
    other = {name: array + 1 for name, array in WEIGHTS.items()}
    for nested, entry in (
        ({"model": other, "ema": WEIGHTS}, "ema/"),
        ({"model": other, "ema": prefixed("module.")}, "ema/module."),
        ({**prefixed("model.", other), **prefixed("ema_model.")}, "ema_model."),
        ({**other, **prefixed("ema.")}, "ema."),
    ):
        with pytest.raises(UserError, match=f"--entry.*{entry}"):
            find(nested, "a.pt")
        with pytest.raises(UserError, match="--entry"):
            find(nested, "a.pt", "nothing")
        assert (find(nested, "a.pt", entry)[ANCHOR] == 1).all()


def test_counters_and_what_is_no_tensor_are_left_out():
    counters = {"num_batches_tracked": np.array(3), "step": np.array(12), "note": "text", 5: 1}
    assert find({**WEIGHTS, **counters}, "a.pt").keys() == WEIGHTS.keys()
    # A tensor with axes may be a weight, and is for the network to know.
    assert "extra" in find({**WEIGHTS, "extra": np.zeros(1)}, "a.pt")


def test_other_networks_are_refused():
    itself = {"w": np.ones(2)}
    itself["again"] = itself
    for nested in ({}, {"conv_in.weight": np.ones(2)}, itself, {3: np.ones(3)}):
        with pytest.raises(UserError, match=ANCHOR):
            find(nested, "a.pt")
