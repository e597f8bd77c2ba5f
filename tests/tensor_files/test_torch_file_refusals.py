"""PyTorch files that are refused: hostile ones, corrupt ones, and those of something else."""

import collections
import copy
import pickle
import random
import types
import zipfile

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.tensor_files import torch_file
from tests.tensor_files.torch_files import (
    PREAMBLE,
    WEIGHTS,
    Command,
    Global,
    Parameter,
    Storage,
    Tensor,
    both_layouts,
    pickled,
    refuses,
    same_bits,
    stream_file,
    weights,
    zip_file,
)


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


PLACES = ("top", "value", "deep", "name", "metadata", "attribute", "hooks", "size", "id")
PLACES += ("parameter",)


@both_layouts
def test_commands_do_not_run(tmp_path, save):
    marker = tmp_path / "marker"
    for where in PLACES:
        save(tmp_path / "a.pt", hide(Command(marker), where))
        assert "'posix.system'" in refuses(tmp_path / "a.pt"), where
        assert not marker.exists(), where
    pickle.loads(pickled(Command(marker))[0])
    assert marker.exists(), "Python's own unpickler runs them"


def test_commands_do_not_run_in_the_stream_s_other_pickles(tmp_path):
    marker = tmp_path / "marker"
    command, (magic, version, machine) = Command(marker), PREAMBLE
    for preamble, keys in (
        (((magic, command), version, machine), None),
        ((magic, {"x": command}, machine), None),
        ((magic, version, {"x": command}), None),
        (PREAMBLE, [command]),
    ):
        stream_file(tmp_path / "a.pt", {"w": weights()}, preamble, keys)
        assert "'posix.system'" in refuses(tmp_path / "a.pt")
        assert not marker.exists()


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
    ("jaxdiff.tensor_files.torch_file", "os"),
]


@both_layouts
def test_names_that_are_refused(tmp_path, save):
    for name in NAMES:
        save(tmp_path / "a.pt", {"w": weights(), "x": Global(*name)})
        assert f"'{name[0]}.{name[1]}'" in refuses(tmp_path / "a.pt")


@both_layouts
def test_opcodes_that_name_otherwise(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    for code in (
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x08touch me\x85R.",
        b"(S'touch me'\niposix\nsystem\n.",
        b"\x82\x01.",
    ):
        save("a.pt", {}, edit=lambda data, code=code: code)
        refuses("a.pt")
        assert not (tmp_path / "me").exists()


# A tuple that holds itself twice, 60 levels deep: its hash or its text would take 2^60 steps.
DEEP = b")" + b"q\x00h\x00\x86" * 60
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
SLOW = {
    "a key": b"}" + DEEP + b"K\x01s.",
    "keys": b"}(" + DEEP + b"K\x01u.",
    "a key of pairs": b"ccollections\nOrderedDict\n]]" + DEEP + b"aK\x01aa\x85R.",
    "a value": b"}X\x01\x00\x00\x00w" + DEEP + b"s.",
    "the whole": DEEP + b".",
    "an id": DEEP + b"Q.",
    "a storage's key": STORAGE + DEEP + b"X\x03\x00\x00\x00cpuK\x01tQ.",
    "nesting": b")" + b"\x85" * 3_000_000 + b".",
    "marks": b"(" * 3_000_000 + b".",
    "digits": b"L" + b"9" * 3_000_000 + b"L\n.",
    "a long number": b"\x8b" + (2**24).to_bytes(4, "little") + b"\x7f" * 2**24,
    "a long text": b"\x8d" + (2**50).to_bytes(8, "little") + b".",
    "itself": b"}q\x00X\x01\x00\x00\x00wh\x00s.",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", SLOW)
def test_nothing_takes_long(tmp_path, what):
    zip_file(tmp_path / "a.pt", {}, edit=lambda data: b"\x80\x02" + SLOW[what])
    refuses(tmp_path / "a.pt")


def test_entries_that_overlap_are_not_read(tmp_path):
    """1,000 storages of 1 MB, which are one in the file: reading them would take 1 GB."""
    large = np.zeros(2**18, np.float32)
    state = {f"w{i}": Tensor(Storage(f"{i}", large), 0, (1,), (1,)) for i in range(1000)}
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled(state)[0])
        archive.writestr("x/data/0", large.data)
        for i in range(1, 1000):
            archive.filelist.append(copy.copy(archive.getinfo("x/data/0")))
            archive.filelist[-1].filename = f"x/data/{i}"
    refuses(tmp_path / "a.pt")


def test_numbered_entries_of_nested_dicts_are_read(tmp_path):
    state = {"ema": {"w": weights()}, "opt": {"state": {0: {"step": 3}}}, "rate": [0.5]}
    zip_file(tmp_path / "a.pt", state)
    found = torch_file.read_nested(tmp_path / "a.pt")
    same_bits(found["ema"]["w"], WEIGHTS.reshape(3, 4))
    assert found["opt"] == {"state": {0: {"step": 3}}}
    assert "'ema'" in refuses(tmp_path / "a.pt")


def test_attributes_of_the_dict_hide_no_tensors(tmp_path):
    build = b"}X\x05\x00\x00\x00itemsccollections\nOrderedDict\nsb."
    state = collections.OrderedDict(w=weights())
    zip_file(tmp_path / "a.pt", state, edit=lambda data: data[:-1] + build)
    assert list(torch_file.read(tmp_path / "a.pt")) == ["w"]


def test_a_pickle_cannot_change_how_the_next_is_read(tmp_path):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    state = b"}(X\x0c\x00\x00\x00__defaults__K\x01\x85X\x01\x00\x00\x00xK\x02u"
    code = b"\x80\x02" + rebuild + b"N" + state + b"\x86b."
    zip_file(tmp_path / "a.pt", {}, edit=lambda data: code)
    refuses(tmp_path / "a.pt")
    zip_file(tmp_path / "a.pt", {"w": weights()})
    same_bits(torch_file.read(tmp_path / "a.pt")["w"], WEIGHTS.reshape(3, 4))


# (offset, size, stride) of tensors that reach out of their storage of 12 numbers, or are none.
MALFORMED = {
    "one too many": (0, (13,), (1,)),
    "offset": (12, (1,), (1,)),
    "offset of a scalar": (12, (), ()),
    "stride": (0, (3, 4), (5, 1)),
    "far": (2**62, (2,), (2**62,)),
    "wraps at 64 bits": (0, (9,), (2**61,)),
    "expanded beyond": (12, (2, 2), (0, 0)),
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
def test_malformed_tensors_and_storages(tmp_path, save):
    states = [{"w": Tensor(Storage("0", WEIGHTS), *one)} for one in MALFORMED.values()]
    short, long = weights(length=11), weights(length=13)
    other = Tensor(Storage("7", WEIGHTS[:6], "Double"), 0, (1,), (1,))
    states += [{"w": long}, {"w": short, "x": weights()}, {"w": weights(), "x": other}]
    states += [{"w": weights(), "x": Tensor("8", 0, (1,), (1,))}]  # of no storage
    for change in ({0: "module"}, {1: "float32"}, {2: 7}, {4: 12.0}, {5: ("8", 2, 6)}):
        storage = Storage("7", WEIGHTS)
        storage.pid = tuple(change.get(i, part) for i, part in enumerate((*storage.pid, None)))
        states.append({"w": Tensor(storage, 0, (1,), (1,))})
    for state in states:
        save(tmp_path / "a.pt", state)
        refuses(tmp_path / "a.pt")


def test_storages_of_another_length_than_the_stream_says(tmp_path):
    stream_file(tmp_path / "a.pt", {"w": weights()})
    data = (tmp_path / "a.pt").read_bytes()
    right, wrong = (length.to_bytes(8, "little") + WEIGHTS.tobytes() for length in (12, 13))
    assert data.count(right) == 1
    (tmp_path / "a.pt").write_bytes(data.replace(right, wrong))
    refuses(tmp_path / "a.pt")
    array = types.SimpleNamespace(size=2**50, tobytes=WEIGHTS.tobytes)
    stream_file(tmp_path / "a.pt", {"w": Tensor(Storage("0", array), 0, (1,), (1,))})
    refuses(tmp_path / "a.pt")


@both_layouts
def test_what_is_no_state_dict(tmp_path, save):
    for state, name in (
        ({"state_dict": {"w": weights()}, "w": weights()}, "'state_dict'"),
        ({"w": weights(), "rate": 0.5, "note": None}, "'rate'"),
        ({"w": weights(), 3: weights()}, "3"),
        ({"w": [weights()]}, "'w'"),
        (weights(), ""),
        ([weights()], ""),
        (7, ""),
        (None, ""),
    ):
        save(tmp_path / "a.pt", state)
        assert name in refuses(tmp_path / "a.pt")


def test_other_files(tmp_path):
    np.savez(tmp_path / "a.npz", w=WEIGHTS)
    for content in (
        b"",
        b"PK",
        b"PK\x03\x04" + bytes(100),
        b"<html>no such file</html>",
        b"\x80\x02}.",
        b"\x10" + bytes(7) + b'{"w":{"dtype":0}' + bytes(8),  # safetensors
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        (tmp_path / "a.npz").read_bytes(),
    ):
        (tmp_path / "a.pt").write_bytes(content)
        refuses(tmp_path / "a.pt")
    zip_file(tmp_path / "a.pt", {"w": weights()}, compression=zipfile.ZIP_DEFLATED)
    refuses(tmp_path / "a.pt")
    stream_file(tmp_path / "a.pt", {"w": weights()}, (PREAMBLE[0], 1002, {}))
    refuses(tmp_path / "a.pt")
    refuses(tmp_path / "none.pt")
    refuses(tmp_path)


@both_layouts
def test_every_truncation(tmp_path, save):
    save(tmp_path / "a.pt", {"w": weights()})
    whole = (tmp_path / "a.pt").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        refuses(tmp_path / "b.pt")


def test_a_changed_bit_in_a_storage(tmp_path):
    zip_file(tmp_path / "a.pt", {"w": weights()})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(WEIGHTS.tobytes())] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    refuses(tmp_path / "a.pt")


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
