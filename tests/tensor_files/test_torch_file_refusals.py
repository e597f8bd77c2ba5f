"""PyTorch files that are refused: hostile ones, damaged ones, and those of something else."""

import collections
import copy
import os
import pickle
import random
import types
import zipfile

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.interop import torch_file
from tests.interop.torch_files import (
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
    "by instance": (b"(S'touch me'\niposix\nsystem\n.", "incomplete, damaged"),
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


# A tuple that holds itself twice, 60 levels deep: its hash or its text would take 2^60 steps.
DEEP = b")" + b"q\x00h\x00\x86" * 60
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
SLOW = {
    "a key": (b"}" + DEEP + b"K\x01s.", "a tuple where a name is expected"),
    "keys": (b"}(" + DEEP + b"K\x01u.", "a tuple where a name is expected"),
    "a key of pairs": (
        b"ccollections\nOrderedDict\n]]" + DEEP + b"aK\x01aa\x85R.",
        "a tuple where a name is expected",
    ),
    "a value": (b"}X\x01\x00\x00\x00w" + DEEP + b"s.", "more than tensors by name, under 'w'"),
    "the whole": (DEEP + b".", "does not hold tensors by name"),
    "an id": (DEEP + b"Q.", "incomplete, damaged"),
    "a storage's key": (STORAGE + DEEP + b"X\x03\x00\x00\x00cpuK\x01tQ.", "incomplete, damaged"),
    "nesting": (b")" + b"\x85" * 3_000_000 + b".", "more than 1,000,000 values"),
    "marks": (b"(" * 3_000_000 + b".", "more than 1,000,000 values"),
    "digits": (b"L" + b"9" * 3_000_000 + b"L\n.", "incomplete, damaged"),
    "a long number": (b"\x8b" + (2**24).to_bytes(4, "little") + b"\x7f" * 2**24, "incomplete, dam"),
    "a long text": (b"\x8d" + (2**50).to_bytes(8, "little") + b".", "incomplete, damaged"),
    "itself": (b"}q\x00X\x01\x00\x00\x00wh\x00s.", "more than tensors by name, under 'w'"),
}


@pytest.mark.timeout(60)
@both_layouts
@pytest.mark.parametrize("what", SLOW)
def test_nothing_takes_long(tmp_path, save, what):
    code, words = SLOW[what]
    save(tmp_path / "a.pt", {}, edit=lambda data: b"\x80\x02" + code)
    refuses(tmp_path / "a.pt", words)


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
    refuses(tmp_path / "a.pt", "incomplete, damaged")


def test_numbered_entries_of_nested_dicts_are_read(tmp_path):
    state = {"ema": {"w": weights()}, "opt": {"state": {0: {"step": 3}}}, "rate": [0.5]}
    zip_file(tmp_path / "a.pt", state)
    found = torch_file.read_nested(tmp_path / "a.pt")
    same_bits(found["ema"]["w"], WEIGHTS.reshape(3, 4))
    assert found["opt"] == {"state": {0: {"step": 3}}}
    refuses(tmp_path / "a.pt", "more than tensors by name, under 'ema'")


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


@pytest.mark.parametrize("content", [b"PK", b"<html>no such file</html>", b"\x80\x02}.", None])
def test_other_files(tmp_path, content):
    if content is None:
        np.savez(tmp_path / "a.npz", w=WEIGHTS)
        refuses(tmp_path / "a.npz", r"is a zip archive that torch\.save did not write")
    else:
        (tmp_path / "a.pt").write_bytes(content)
        refuses(tmp_path / "a.pt", r"is not a file of torch\.save: give a file")


KINDS = {
    "empty": (b"", "is empty"),
    "safetensors": (b"\x10" + bytes(7) + b'{"w":{"dtype":0}' + bytes(8), "safetensors"),
    "a note of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs"),
    "a zip archive cut short": (b"PK\x03\x04" + bytes(100), "incomplete"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_often_taken_for_checkpoints(tmp_path, kind):
    content, words = KINDS[kind]
    (tmp_path / "a.pt").write_bytes(content)
    refuses(tmp_path / "a.pt", words)


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    refuses(tmp_path / "a.pt", "is not a file")


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
        refuses(tmp_path / "b.pt", "incomplete, damaged|is not a file|is empty")


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
