"""Conditions as files have them, in their turn, and what says that they are the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdiff.arrays import checksum
from jaxdiff.config import DataConfig, Image, Label, RunConfig, Tokens, UNetConfig
from jaxdiff.errors import UserError
from jaxdiff.sampling.samples import Samples, load_samples
from jaxdiff.sampling.trained_model import TrainedModel, condition_array
from tests import tiny

TWO = (Label(3, "shape"), Label(2, "colour"))


def model(*conditions, **fields):
    return TrainedModel(config=tiny.config(model__conditions=conditions), **fields)


def test_two_labels_take_turns_through_all_pairs_and_empty_concerns_the_first():
    cond = model(*TWO, empty=(1,))._conditions(5, None, None)
    assert cond["shape"].tolist() == [0, 2, 0, 2, 0]
    assert cond["colour"].tolist() == [0, 0, 1, 1, 0]


def test_both_labels_are_stored_and_read(tmp_path):
    cond = {"shape": np.int32([0, 2]), "colour": np.int32([1, 0])}
    source = {"num_samples": 2, "label": "shape"}
    images = np.zeros((2, 8, 8, 1), np.uint8)
    Samples(images=images, cond=cond, source=source).save(tmp_path / "out")
    with np.load(next((tmp_path / "out").glob("*.npz"))) as arrays:
        assert set(arrays) == {"arr_0", "arr_1", "colour"}
    read = load_samples(tmp_path / "out").cond
    assert {name: array.tolist() for name, array in read.items()} == {
        "shape": [0, 2],
        "colour": [1, 0],
    }


def test_masks_and_maps_of_another_shape_are_refused():
    attends = SimpleNamespace(conditions=(Tokens(4, 8),))
    config = SimpleNamespace(model=attends, data=None, label=None)
    given = {"tokens": np.zeros((4, 8)), "mask": [True] * 3}
    with pytest.raises(UserError, match="mask"):
        TrainedModel(config=config)._conditions(2, given, None)
    data = DataConfig(name="x", image_size=8, channels=1, low_res_size=4)
    assert condition_array(Image(1), np.zeros((4, 4, 1)), 5, data).shape == (5, 4, 4, 1)
    with pytest.raises(UserError, match="image"):
        condition_array(Image(1), np.zeros((8, 8, 1)), 5, data)


def test_one_map_for_all_is_kept_once_and_its_values_count():
    data = DataConfig(name="x", image_size=8, channels=1)
    maps = [condition_array(Image(1), np.full((4, 4, 1), v), 10**6, data) for v in (0, 0, 0.5)]
    assert maps[0].strides[0] == 0
    sums = [checksum(each) for each in maps]
    assert sums[0] == sums[1] != sums[2]


def test_settings_that_are_no_data_are_refused():
    with pytest.raises(UserError, match="UNetConfig"):
        RunConfig(data=UNetConfig())
