"""Files of weights: which are read, and what is said of those that are not."""

import hashlib
import math

import numpy as np
import pytest
from etils import epath

from jaxdiff.errors import UserError
from jaxdiff.evaluation import weights
from jaxdiff.evaluation.extractors import KINDS
from jaxdiff.tensor_files import torch_file

SHAPES = {"conv.weight": (4, 3, 2, 2), "bn.running_var": (4,)}
TENSORS = {name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def public(tmp_path, monkeypatch):
    """(the folder of a network "tiny", its public file), which is there."""
    path = epath.Path(tmp_path / "weights" / "tiny-1.pth")
    torch_file.write(path, TENSORS)
    content = path.read_bytes()
    known = weights.WeightsFile(
        names=("tiny.pth", "tiny-1.pth"),
        address="https://example.org/tiny.pth",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        tensors=2,
        numbers=52,
        licence="MIT",
    )
    monkeypatch.setitem(weights.FILES, "tiny", known)
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    return path.parent, path


def read(place=None):
    return weights.read("tiny", SHAPES, place)


@pytest.mark.parametrize("how", ["folder", "file", "variable"])
def test_the_public_file_is_read(public, how, monkeypatch, capsys):
    folder, path = public
    if how == "variable":
        monkeypatch.setenv(weights.VARIABLE, str(folder))
    tensors, digest, known = read({"folder": folder, "file": path, "variable": None}[how])
    assert known
    assert digest == weights.FILES["tiny"].sha256
    assert {name: tensor.shape for name, tensor in tensors.items()} == SHAPES
    assert capsys.readouterr().out == ""


def test_other_weights_are_read_as_a_file_alone(public, capsys):
    folder, path = public
    other = {**TENSORS, "bn.running_var": np.ones(4, np.float32)}
    other |= {"bn.num_batches_tracked": np.zeros((), np.int64)}
    torch_file.write(path, other)
    tensors, digest, known = read(path)
    assert not known
    assert tensors.keys() == SHAPES.keys()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in capsys.readouterr().out
    with pytest.raises(UserError, match=f"{digest}.*{weights.FILES['tiny'].sha256}.*as a file"):
        read(folder)


@pytest.mark.parametrize("place", [None, "empty", "nowhere"])
def test_a_missing_file_is_named_with_its_address_and_hash(public, place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        read(place and tmp_path / place)
    known = weights.FILES["tiny"]
    parts = [known.address, known.sha256, f"{known.size:,}", "--weights"]
    if place == "nowhere":
        parts = ["nowhere", "--weights"]
    assert all(part in str(caught.value) for part in parts)


def test_a_truncated_file_is_refused(public):
    folder, path = public
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="incomplete.*https://example"):
        read(folder)
    with pytest.raises(UserError, match="incomplete"):
        read(path)


WRONG = {
    "lacks 'bn.running_var'": {"conv.weight": TENSORS["conv.weight"]},
    "has 'more'": {**TENSORS, "more": np.ones(1, np.float32)},
    r"bn.running_var is float32 \(5,\).*\(4,\)": {**TENSORS, "bn.running_var": np.ones(5, "f4")},
    "bn.running_var is int32": {**TENSORS, "bn.running_var": np.ones(4, np.int32)},
    "not finite in bn.running_var": {
        **TENSORS,
        "bn.running_var": np.float32([1, 1, np.nan, 1]),
    },
}


@pytest.mark.parametrize("said", WRONG)
def test_a_file_of_another_network_is_refused(public, said):
    _, path = public
    torch_file.write(path, WRONG[said])
    with pytest.raises(UserError, match=f"tiny-1.pth.*{said}"):
        read(path)


def test_what_is_no_file_of_tensors_is_refused(public):
    _, path = public
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"torch\.save"):
        read(path)


def test_every_network_has_the_tensors_of_its_public_file():
    assert weights.FILES.keys() == KINDS.keys()
    for name, file in weights.FILES.items():
        shapes = KINDS[name].network.shapes
        counts = len(shapes), sum(math.prod(shape) for shape in shapes.values())
        assert counts == (file.tensors, file.numbers), name
        assert file.size is None or 0 < file.size - 4 * file.numbers < 1e6, name
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32, name
