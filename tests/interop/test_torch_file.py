"""PyTorch files: golden, by hand in both layouts, hostile, damaged, and against PyTorch itself."""

import collections
import io
import json
import os
import pickle
import random
import types
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.interop import torch_file

DTYPES = {
    "Double": np.dtype(np.float64),
    "Float": np.dtype(np.float32),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}
WEIGHTS = np.arange(12, dtype=np.float32) - 3.5


class Global:
    """Pickled as the name of something that need not exist here."""

    def __init__(self, module, name):
        self.named = f"{module}\n{name}\n".encode()

    def __call__(self):
        raise AssertionError("only its name is pickled")


class Storage:
    """A storage of a PyTorch file."""

    def __init__(self, key, array, kind="Float", length=None):
        self.key, self.array = key, array
        self.pid = ("storage", Global("torch", f"{kind}Storage"), key, "cpu")
        self.pid += (array.size if length is None else length,)


class Tensor:
    """Pickled as PyTorch pickles its tensors."""

    def __init__(self, storage, offset, size, stride, *, named="_rebuild_tensor_v2", hooks=None):
        hooks = collections.OrderedDict() if hooks is None else hooks
        self.reduced = Global("torch._utils", named), (storage, offset, size, stride, False, hooks)

    def __reduce__(self):
        return self.reduced


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        hooks = collections.OrderedDict()
        return Global("torch._utils", "_rebuild_parameter"), (self.tensor, True, hooks)


class Command:
    """Unpickled without restriction, makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


# The pickler written in Python, as only that one lets names of absent modules be written.
class Pickler(pickle._Pickler):
    def __init__(self, file, view):
        super().__init__(file, protocol=2)
        self.view, self.storages = view, {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value.array
        return value.pid + self.view

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + value.named)
        else:
            super().save(value, save_persistent_id)


class Bytes(bytearray):
    write = bytearray.extend


def pickled(value, view=()):
    data = Bytes()
    pickler = Pickler(data, view)
    pickler.dump(value)
    return bytes(data), pickler.storages


def zip_file(path, value, order="little", edit=lambda data: data, compression=0):
    data, storages = pickled(value)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("any_name/data.pkl", edit(data))
        if order:
            archive.writestr("any_name/byteorder", order)
        for key, array in storages.items():
            swapped = order == "big" and array.dtype.itemsize > 1
            words = array.view(f"u{array.dtype.itemsize}")
            archive.writestr(f"any_name/data/{key}", (words.byteswap() if swapped else words).data)
        archive.writestr("any_name/version", "3\n")


PREAMBLE = (
    0x1950A86A20F9469CFC6C,
    1001,
    {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4}},
)


def stream_file(path, value, preamble=PREAMBLE, keys=None, edit=lambda data: data):
    data, storages = pickled(value, view=(None,))
    with open(path, "wb") as file:
        for part in preamble:
            file.write(pickled(part)[0])
        file.write(edit(data))
        file.write(pickled(list(storages) if keys is None else keys)[0])
        for array in storages.values():
            file.write(array.size.to_bytes(8, "little") + array.tobytes())


both_layouts = pytest.mark.parametrize("save", [zip_file, stream_file])


def weights(**options):
    return Tensor(Storage("7", WEIGHTS, **options), 0, (3, 4), (4, 1))


def same_bits(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def random_array(dtype, shape, seed=0):
    """Every bit pattern may occur, NaNs with payloads too; truth values are 0 and 1."""
    words = np.random.default_rng(seed).bytes(dtype.itemsize * int(np.prod(shape)))
    if dtype == np.bool_:
        return (np.frombuffer(words, np.uint8) % 2 == 1).reshape(shape)
    return np.frombuffer(words, dtype).reshape(shape)


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
@pytest.mark.parametrize("kind", DTYPES)
def test_dtypes(tmp_path, save, kind):
    values = random_array(DTYPES[kind], (12,))
    save(tmp_path / "a.pt", {"w": Tensor(Storage("0", values, kind), 0, (3, 4), (4, 1))})
    found = torch_file.read(tmp_path / "a.pt")["w"]
    same_bits(found, values.reshape(3, 4))
    assert not found.flags.writeable


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


# --- Refusing ------------------------------------------------------------------------------------


def refuses(path, words):
    with pytest.raises(UserError, match=words) as caught:
        torch_file.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_the_command_would_run_unrestricted(tmp_path):
    pickle.loads(pickled(Command(tmp_path / "marker"))[0])
    assert (tmp_path / "marker").exists()


def hide(command, where):
    """A state dict with a command in it."""
    state = collections.OrderedDict(w=weights())
    if where == "value":
        state["x"] = command
    elif where == "deep":
        state["x"] = [({"y": [command]},)]
    elif where == "name":
        state[(command,)] = weights()
    elif where == "metadata":
        state._metadata = {"": command}
    elif where == "attribute":
        state.__setstate__ = command
    elif where == "hooks":
        state["x"] = Tensor(Storage("7", WEIGHTS), 0, (1,), (1,), hooks=command)
    elif where == "size":
        state["x"] = Tensor(Storage("7", WEIGHTS), 0, command, (1,))
    elif where == "parameter":
        state["x"] = Parameter(command)
    elif where == "id":
        storage = Storage("7", WEIGHTS)
        storage.pid = ("storage", command, "7", "cpu", 12)
        state["x"] = Tensor(storage, 0, (1,), (1,))
    return command if where == "top" else state


PLACES = ["top", "value", "deep", "name", "metadata", "attribute", "hooks", "size", "id"]


@both_layouts
@pytest.mark.parametrize("where", [*PLACES, "parameter"])
def test_commands_do_not_run(tmp_path, save, where):
    save(tmp_path / "a.pt", hide(Command(tmp_path / "marker"), where))
    refuses(tmp_path / "a.pt", r"names 'posix\.system', which is no tensor and was not called")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("part", ["first", "version", "machine", "keys"])
def test_commands_do_not_run_in_the_streams_other_pickles(tmp_path, part):
    command, preamble = Command(tmp_path / "marker"), list(PREAMBLE)
    if part == "first":
        # The number that tells the layout, behind a command.
        preamble[0] = (PREAMBLE[0], command)
    elif part != "keys":
        preamble[["version", "machine"].index(part) + 1] = {"x": command}
    keys = [command] if part == "keys" else None
    stream_file(tmp_path / "a.pt", {"w": weights()}, preamble, keys)
    refuses(tmp_path / "a.pt", r"names 'posix\.system'")
    assert not (tmp_path / "marker").exists()


NAMES = [
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "getattr"),
    ("os", "system"),
    ("torch", "load"),
    ("torch", "ComplexFloatStorage"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "defaultdict"),
    ("jaxdiff.interop.torch_file", "os"),
]


@both_layouts
@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused(tmp_path, save, name):
    save(tmp_path / "a.pt", {"w": weights(), "x": Global(*name)})
    refuses(tmp_path / "a.pt", f"names '{name[0]}.{name[1]}', which is no tensor")


CODES = {
    "by stack": (
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x08touch me\x85R.",
        "names 'posix.system'",
    ),
    "by instance": (b"(S'touch me'\niposix\nsystem\n.", "names 'posix.system'"),
    "by extension": (b"\x82\x01.", "incomplete, damaged"),
}


@both_layouts
@pytest.mark.parametrize("how", CODES)
def test_opcodes_that_name_otherwise(tmp_path, monkeypatch, save, how):
    code, words = CODES[how]
    monkeypatch.chdir(tmp_path)
    save("a.pt", {}, edit=lambda data: code)
    refuses("a.pt", words)
    assert not (tmp_path / "me").exists()


@both_layouts
def test_attributes_of_the_dict_hide_no_tensors(tmp_path, save):
    build = b"}X\x05\x00\x00\x00itemsccollections\nOrderedDict\nsb."
    state = collections.OrderedDict(w=weights())
    save(tmp_path / "a.pt", state, edit=lambda data: data[:-1] + build)
    assert list(torch_file.read(tmp_path / "a.pt")) == ["w"]


@both_layouts
def test_a_pickle_cannot_change_how_the_next_is_read(tmp_path, save):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    state = b"}(X\x0c\x00\x00\x00__defaults__K\x01\x85X\x01\x00\x00\x00xK\x02u"
    save(tmp_path / "a.pt", {}, edit=lambda data: b"\x80\x02" + rebuild + b"N" + state + b"\x86b.")
    refuses(tmp_path / "a.pt", "does not hold tensors by name")
    save(tmp_path / "a.pt", {"w": weights()})
    same_bits(torch_file.read(tmp_path / "a.pt")["w"], WEIGHTS.reshape(3, 4))
    unpickler = torch_file._Unpickler(io.BytesIO())
    assert not vars(unpickler.admitted["torch._utils._rebuild_tensor_v2"])


OUTSIDE = {
    "one too many": (0, (13,), (1,)),
    "offset": (12, (1,), (1,)),
    "offset of a scalar": (12, (), ()),
    "stride": (0, (3, 4), (5, 1)),
    "far": (2**62, (2,), (2**62,)),
    "wraps at 64 bits": (0, (9,), (2**61,)),
    "expanded beyond": (12, (2, 2), (0, 0)),
}


@both_layouts
@pytest.mark.parametrize("where", OUTSIDE)
def test_tensors_outside_of_their_storage(tmp_path, save, where):
    save(tmp_path / "a.pt", {"w": Tensor(Storage("0", WEIGHTS), *OUTSIDE[where])})
    refuses(tmp_path / "a.pt", "places 'w' outside of its storage")


MALFORMED = {
    "negative offset": (-1, (1,), (1,)),
    "negative stride": (11, (12,), (-1,)),
    "negative size": (0, (-1,), (1,)),
    "too few strides": (0, (3, 4), (1,)),
    "fractions": (0, (1.0,), (1,)),
    "not sizes": (0, 3, 1),
    "truth": (0, (True,), (1,)),
    "too many dimensions": (0, (1,) * 100, (1,) * 100),
    "too large to be empty": (0, (2**70, 0), (1, 1)),
}


@both_layouts
@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_tensors(tmp_path, save, what):
    save(tmp_path / "a.pt", {"w": Tensor(Storage("0", WEIGHTS), *MALFORMED[what])})
    refuses(tmp_path / "a.pt", "incomplete, damaged, not a state dict")


@both_layouts
def test_malformed_storages(tmp_path, save):
    short, long = weights(length=11), weights(length=13)
    other = Tensor(Storage("7", WEIGHTS[:6], "Double"), 0, (1,), (1,))
    not_a_storage = Tensor("8", 0, (1,), (1,))
    for state in ({"w": long}, {"w": short, "x": weights()}, {"w": weights(), "x": other}):
        save(tmp_path / "a.pt", state)
        refuses(tmp_path / "a.pt", "incomplete, damaged, not a state dict")
    save(tmp_path / "a.pt", {"w": weights(), "x": not_a_storage})
    refuses(tmp_path / "a.pt", "incomplete, damaged, not a state dict")
    changes = ({0: "module"}, {1: "float32"}, {2: 7}, {4: 12.0}, {5: ("8", 2, 6)})
    for change in changes:
        storage = Storage("7", WEIGHTS)
        storage.pid = tuple(change.get(i, part) for i, part in enumerate((*storage.pid, None)))
        save(tmp_path / "a.pt", {"w": Tensor(storage, 0, (1,), (1,))})
        refuses(tmp_path / "a.pt", "incomplete, damaged, not a state dict")


def test_a_stream_whose_storage_has_another_length(tmp_path):
    stream_file(tmp_path / "a.pt", {"w": weights()})
    data = (tmp_path / "a.pt").read_bytes()
    right, wrong = (length.to_bytes(8, "little") + WEIGHTS.tobytes() for length in (12, 13))
    assert data.count(right) == 1
    (tmp_path / "a.pt").write_bytes(data.replace(right, wrong))
    refuses(tmp_path / "a.pt", "incomplete, damaged")


def test_a_storage_larger_than_its_file(tmp_path):
    array = types.SimpleNamespace(size=2**50, tobytes=WEIGHTS.tobytes)
    stream_file(tmp_path / "a.pt", {"w": Tensor(Storage("0", array), 0, (1,), (1,))})
    refuses(tmp_path / "a.pt", "incomplete, damaged")


@both_layouts
@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"state_dict": {"w": weights()}, "w": weights()}, "'state_dict'"),
        ({"w": weights(), "epoch": 7}, "'epoch'"),
        ({"w": weights(), "rate": 0.5, "note": None}, "'rate'"),
        ({"w": weights(), 3: weights()}, "3"),
        ({"w": [weights()]}, "'w'"),
    ],
)
def test_other_things_among_tensors(tmp_path, save, state, name):
    save(tmp_path / "a.pt", state)
    refuses(tmp_path / "a.pt", f"holds more than tensors by name, under {name}: give a file")


@both_layouts
@pytest.mark.parametrize("value", [weights(), [weights()], 7, None, "text"])
def test_no_state_dict(tmp_path, save, value):
    save(tmp_path / "a.pt", value)
    refuses(tmp_path / "a.pt", r"does not hold tensors by name: give a file that torch\.save")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>no such file</html>", b"\x80\x02}.", None])
def test_other_files(tmp_path, content):
    if content is None:
        np.savez(tmp_path / "a.npz", w=WEIGHTS)
        refuses(tmp_path / "a.npz", r"is a zip archive that torch\.save did not write")
    else:
        (tmp_path / "a.pt").write_bytes(content)
        refuses(tmp_path / "a.pt", r"is not a file of torch\.save: give a file")


def test_files_that_cannot_be_opened(tmp_path):
    refuses(tmp_path / "none.pt", r"cannot be read \(No such file or directory\)")
    refuses(tmp_path, r"cannot be read \(Is a directory\)")


def test_compressed_archives_and_other_versions(tmp_path):
    zip_file(tmp_path / "a.pt", {"w": weights()}, compression=zipfile.ZIP_DEFLATED)
    refuses(tmp_path / "a.pt", r"zip archive that torch\.save did not write")
    stream_file(tmp_path / "a.pt", {"w": weights()}, (PREAMBLE[0], 1002, {}))
    refuses(tmp_path / "a.pt", "unknown version")


@both_layouts
def test_every_truncation(tmp_path, save):
    save(tmp_path / "a.pt", {"w": weights()})
    whole = (tmp_path / "a.pt").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        refuses(tmp_path / "b.pt", "incomplete, damaged|is not a file")


def test_a_truncated_golden_file(tmp_path, goldens):
    whole = (goldens / "unet_adm.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    refuses(tmp_path / "a.pt", "incomplete, damaged")


def test_a_changed_bit_in_a_storage(tmp_path):
    zip_file(tmp_path / "a.pt", {"w": weights()})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(WEIGHTS.tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    refuses(tmp_path / "a.pt", "incomplete, damaged")


@both_layouts
def test_changed_bytes_of_the_pickle(tmp_path, save):
    """Whatever a pickle says, arrays come out of it or a sentence."""
    shared, draw, outcomes = Storage("0", WEIGHTS), random.Random(0), collections.Counter()
    state = {"a": Tensor(shared, 0, (3, 4), (4, 1)), "b": Tensor(shared, 3, (2, 2), (3, 1))}
    for position in range(len(pickled(state)[0])):
        for value in (draw.randrange(256), *b"rjb0"):

            def edit(data, position=position, value=value):
                return data[:position] + bytes([value]) + data[position + 1 :]

            save(tmp_path / "a.pt", state, edit=edit)
            try:
                found = torch_file.read(tmp_path / "a.pt")
            except UserError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
                assert all(type(array) is np.ndarray for array in found.values())
                assert all(array.tobytes() is not None for array in found.values())
    assert min(outcomes["refused"], outcomes["read"]) > 20


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


@pytest.mark.parametrize("dtype", [np.complex64, np.uint16, np.object_, "U3"])
def test_a_failed_write_leaves_the_old_file(tmp_path, dtype):
    torch_file.write(tmp_path / "a.pt", {"w": WEIGHTS})
    with pytest.raises(UserError, match=r"^b is of \w+: convert it to one of float64, float32, "):
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
    refuses(tmp_path / "b.pt", r"names 'torch\.nn\.modules\.container\.Sequential'")


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
