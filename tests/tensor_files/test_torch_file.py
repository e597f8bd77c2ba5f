"""PyTorch files that are read and written: golden, by hand, and against PyTorch itself."""

import collections
import json
import os
import zipfile
import zlib

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.tensor_files import torch_file
from tests.tensor_files.torch_files import (
    DTYPES,
    WEIGHTS,
    Parameter,
    Storage,
    Tensor,
    both_layouts,
    random_array,
    refuses,
    same_bits,
    zip_file,
)

# --- Reading -------------------------------------------------------------------------------------


def test_golden_file(goldens):
    shapes = json.loads((goldens / "unet_adm.json").read_text())["state_dict"]
    tensors = torch_file.read(goldens / "unet_adm.pt")
    assert list(tensors) == list(shapes)
    for name, shape in shapes.items():
        value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[1:]))
        else:
            value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
        same_bits(tensors[name], value.astype(np.float32))


@both_layouts
def test_dtypes(tmp_path, save):
    values = {kind: random_array(dtype, (12,)) for kind, dtype in DTYPES.items()}
    state = {k: Tensor(Storage(k, v, k), 0, (3, 4), (4, 1)) for k, v in values.items()}
    save(tmp_path / "a.pt", state)
    found = torch_file.read(tmp_path / "a.pt")
    for kind, value in values.items():
        same_bits(found[kind], value.reshape(3, 4))
        assert not found[kind].flags.writeable


@both_layouts
def test_views_of_a_shared_storage(tmp_path, save):
    shared = Storage("0", WEIGHTS)
    state = collections.OrderedDict(
        whole=Tensor(shared, 0, (3, 4), (4, 1)),
        transposed=Tensor(shared, 0, (4, 3), (1, 4)),
        part=Tensor(shared, 5, (2, 3), (4, 1)),
        column=Tensor(shared, 2, (3,), (4,)),
        scalar=Tensor(shared, 11, (), ()),
        expanded=Tensor(shared, 3, (2, 5), (1, 0)),
        empty=Tensor(shared, 12, (0, 4), (4, 1)),
        parameter=Parameter(Tensor(shared, 0, (12,), (1,))),
        nothing=Tensor(Storage("1", WEIGHTS[:0]), 0, (0,), (1,)),
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    save(tmp_path / "a.pt", state)
    found = torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(state)
    grid = WEIGHTS.reshape(3, 4)
    same_bits(found["whole"], grid)
    same_bits(found["transposed"], grid.T)
    same_bits(found["part"], grid[1:, 1:])
    same_bits(found["column"], grid[:, 2])
    same_bits(found["scalar"], grid[2, 3])
    same_bits(found["expanded"], np.repeat(WEIGHTS[3:5, None], 5, axis=1))
    same_bits(found["empty"], grid[:0])
    same_bits(found["parameter"], WEIGHTS)
    same_bits(found["nothing"], WEIGHTS[:0])
    assert np.shares_memory(found["whole"], found["part"])


@pytest.mark.parametrize("order", ["little", "big", None])
@pytest.mark.parametrize("kind", ["Float", "BFloat16", "Byte"])
def test_byte_orders(tmp_path, order, kind):
    values = random_array(DTYPES[kind], (6,))
    zip_file(tmp_path / "a.pt", {"w": Tensor(Storage("0", values, kind), 0, (6,), (1,))}, order)
    found = torch_file.read(tmp_path / "a.pt")["w"]
    same_bits(found, values)
    assert not found.flags.writeable


@both_layouts
def test_no_tensors(tmp_path, save):
    save(tmp_path / "a.pt", {})
    assert torch_file.read(tmp_path / "a.pt") == {}


# --- Writing -------------------------------------------------------------------------------------


def example():
    """Arrays of every dtype and layout."""
    arrays = {f"of.{kind}": random_array(dtype, (3, 5, 2)) for kind, dtype in DTYPES.items()}
    arrays["transposed"] = arrays["of.Float"].T
    arrays["strided"] = arrays["of.BFloat16"][::2, 1:4, ::-1]
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["empty"] = np.zeros((0, 3), np.float16)
    arrays["größe"] = np.broadcast_to(np.int64(-7), (2, 2))
    return arrays


def test_what_is_written_is_read(tmp_path):
    arrays = example()
    torch_file.write(tmp_path / "a.pt", arrays)
    found = torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        same_bits(found[name], array)


def test_big_endian_arrays_are_written_by_value(tmp_path):
    torch_file.write(tmp_path / "a.pt", {"w": WEIGHTS.astype(">f4")})
    same_bits(torch_file.read(tmp_path / "a.pt")["w"], WEIGHTS)


def test_golden_round_trip(tmp_path, goldens):
    tensors = torch_file.read(goldens / "unet_adm.pt")
    torch_file.write(str(tmp_path / "a.pt"), tensors)
    found = torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        same_bits(found[name], array)


def test_the_archive(tmp_path):
    torch_file.write(tmp_path / "a.pt", {"w": WEIGHTS, "b": WEIGHTS[:2]})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert sorted(archive.namelist()) == [
            f"archive/{name}" for name in ("byteorder", "data.pkl", "data/0", "data/1", "version")
        ]
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert archive.read("archive/data/0") == WEIGHTS.tobytes()


def test_equal_tensors_make_equal_files(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch_file.write(tmp_path / name, example())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    with pytest.raises(UserError, match="b.pt"):
        torch_file.write(tmp_path / "b.pt", {}, new=True)


@pytest.mark.parametrize("dtype", [np.complex64, np.uint16, np.object_, "U3"])
def test_a_failed_write_leaves_the_old_file(tmp_path, dtype):
    torch_file.write(tmp_path / "a.pt", {"w": WEIGHTS})
    with pytest.raises(UserError, match="^b is of "):
        torch_file.write(tmp_path / "a.pt", {"w": WEIGHTS[:3], "b": np.zeros(3, dtype)})
    assert os.listdir(tmp_path) == ["a.pt"]
    same_bits(torch_file.read(tmp_path / "a.pt")["w"], WEIGHTS)


# --- Against PyTorch, where it is installed ------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_writes(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    state = collections.OrderedDict(
        float32=base,
        transposed=base.T,
        part=base[1:5:2, 2:],
        scalar=base[3, 3],
        expanded=base[:1].expand(4, 5),
        empty=base[:0],
        float64=base.double(),
        float16=base.half(),
        bfloat16=base.bfloat16()[:, ::2],
        int64=torch.arange(-4, 4).reshape(2, 4).T,
        int32=torch.arange(3, dtype=torch.int32),
        int16=torch.arange(3, dtype=torch.int16),
        int8=torch.arange(-3, 3, dtype=torch.int8),
        uint8=torch.arange(3, dtype=torch.uint8),
        bool=base > 0,
        parameter=torch.nn.Parameter(base[2]),
    )
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "a.pt") == zipped
    found = torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(state)
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        assert found[name].dtype.name == kind
        expected = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].tobytes() == expected.tobytes()
    assert np.shares_memory(found["float32"], found["transposed"])


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_writes_a_modules_state_dict(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = module.state_dict(keep_vars=True)
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = torch_file.read(tmp_path / "a.pt")
    assert list(found) == list(state)
    for name, tensor in state.items():
        same_bits(found[name], tensor.detach().numpy())
    torch.save(module, tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
    assert "'torch.nn.modules.container.Sequential'" in refuses(tmp_path / "b.pt")


def test_pytorch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = example()
    torch_file.write(tmp_path / "a.pt", arrays)
    for options in ({}, {"mmap": True}):
        found = torch.load(tmp_path / "a.pt", weights_only=True, **options)
        assert type(found) is collections.OrderedDict
        assert list(found) == list(arrays)
        for name, tensor in found.items():
            assert tensor.is_contiguous()
            assert not tensor.requires_grad
            assert str(tensor.dtype) == f"torch.{arrays[name].dtype.name}"
            assert tuple(tensor.shape) == arrays[name].shape
            assert tensor.flatten().view(torch.uint8).numpy().tobytes() == arrays[name].tobytes()
        del found, tensor


def test_pytorch_loads_a_module(tmp_path, goldens):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 3)
    arrays = {"weight": WEIGHTS.reshape(3, 4), "bias": WEIGHTS[:3]}
    torch_file.write(tmp_path / "a.pt", arrays)
    module.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    same_bits(module.weight.detach().numpy(), arrays["weight"])
    found = torch_file.read(goldens / "unet_adm.pt")
    for name, tensor in torch.load(goldens / "unet_adm.pt", weights_only=True).items():
        same_bits(found[name], tensor.numpy())
