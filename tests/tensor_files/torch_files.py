"""PyTorch files made by hand, in both layouts, of anything."""

import collections
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.tensor_files import torch_file

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


def refuses(path):
    """Checks that a file is refused in one sentence that names it, and returns the sentence."""
    with pytest.raises(UserError) as caught:
        torch_file.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence
