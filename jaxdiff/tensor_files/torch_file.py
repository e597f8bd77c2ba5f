"""PyTorch's files of state dicts, read and written without PyTorch.

A file of torch.save is a pickle and the storages that its tensors are views of. A pickle can name
any function and call it, so it is read by an interpreter of its own, in torch_pickle.py. Both
layouts are read: the zip archive that PyTorch writes since 1.6, NAME/data.pkl and NAME/data/KEY,
and the stream of pickles and storages before it. Reading takes about as much memory as the file is
long, whatever it says of itself.
"""

import io
import math
import os
import pickle
import zipfile

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.tensor_files.torch_pickle import (
    EXPECTED,
    ORDERED_DICT,
    REBUILD,
    STORAGES,
    Refusal,
    Tensor,
    load,
)

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_START = 1024  # bytes that tell what a file is
_AGAIN = "download or save it again."


def read(path):
    """Reads the state dict of a PyTorch file; runs nothing that the file may contain.

    Args:
      path: of a file that torch.save(state_dict) wrote, in the zip layout or the older one.

    Returns:
      {name: numpy array} in the file's order, of the tensors' shapes and dtypes, bfloat16 as that
      of ml_dtypes. The arrays are read-only views of the file's storages: tensors that share one
      share memory.

    Raises:
      UserError: if the file cannot be read, is corrupt, or holds anything but tensors by name.
    """
    tensors = read_nested(path)
    for name, value in tensors.items():
        if type(name) is not str or type(value) is not np.ndarray:
            raise UserError(
                f"{path} holds more than tensors by name, under {name!r:.90}: {EXPECTED}"
            )
    return tensors


def read_nested(path):
    """Reads a PyTorch file that holds more than a state dict, such as a training checkpoint.

    Returns:
      A dict, whose values may be dicts in their turn: as of `read`, and whatever else there is as
      it is. Keys are text or integers.

    Raises:
      UserError: if the file cannot be read, is corrupt, or is no dict.
    """
    path = files.parse_path(path, "The file")
    with files.opened(path) as file:
        try:
            return _read(file, file.seek(0, os.SEEK_END))
        except Refusal as refusal:
            raise UserError(f"{path} {refusal}") from None
        # A corrupt file can make pickletools, zipfile and numpy raise nearly anything.
        except Exception as error:
            raise UserError(
                f"{path} is incomplete, corrupt, no state dict, or larger than this machine's "
                "memory: download or save it again, or read it on a larger machine."
            ) from error


def _read(file, size):
    file.seek(0)
    start = file.read(_START)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file, size)
    if _MAGIC.to_bytes(10, "little") in start[:32]:
        return _read_stream(file, size)
    if start.startswith(b"version https://git-lfs"):
        raise Refusal("is a git-lfs pointer instead of the file: run `git lfs pull`.")
    raise Refusal(f"is not a file of torch.save: {EXPECTED}")


def write(path, tensors, new=False):
    """Writes a file that torch.load(path, weights_only=True) reads as an OrderedDict.

    The file appears complete or not at all. Equal tensors make equal files.

    Args:
      path: of the file.
      tensors: {name: numpy array}, of a dtype that `read` can return. Written contiguously.
      new: refuse to replace a file that is there.

    Raises:
      UserError: if an array has a dtype that PyTorch files do not hold; as `files.replacing`.
    """
    path = files.parse_path(path, "The file")
    with files.replacing(path, new) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in _entries(tensors):
            # A ZipInfo of its own has no time of writing, and is stored uncompressed.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


def _read_zip(file, size):
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [info.filename for info in entries if info.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or any(info.compress_type for info in entries):
            raise Refusal(f"is a zip archive that torch.save did not write: {EXPECTED}")
        # Entries may overlap, so that a short file says that it holds much.
        if sum(info.file_size for info in entries) > size:
            raise Refusal(f"is incomplete or corrupt, as it holds less than it says: {_AGAIN}")
        root = pickles[0].removesuffix("data.pkl")
        state, storages = load(io.BytesIO(archive.read(pickles[0])))
        orders = [info for info in entries if info.filename == f"{root}byteorder"]
        big = bool(orders) and archive.read(orders[0]) == b"big"
        buffers = {key: archive.read(f"{root}data/{key}") for key in storages}
    return _arrays(state, storages, buffers, ">" if big else "<")


def _read_stream(file, size):
    for expected in (_MAGIC, _VERSION):
        value, _ = load(file)
        if type(value) is not int or value != expected:
            raise Refusal(f"is in an unknown version of torch.save's format: {EXPECTED}")
    load(file)  # The machine that wrote it. Storages are little-endian whatever it was.
    (state, storages), (keys, _) = load(file), load(file)
    buffers = {}
    for key in keys:
        storage = storages[key] if type(key) is str else None
        if int.from_bytes(file.read(8), "little") != storage.length:
            raise EOFError(f"storage {key[:80]} is not of {storage.length} elements")
        length = storage.length * storage.dtype.itemsize
        if length > size - file.tell():
            raise EOFError("the file ends before its storages")
        buffers[key] = file.read(length)
    return _arrays(state, storages, buffers, "<")


def _arrays(state, storages, buffers, order):
    """What a file holds, with arrays for tensors, given its storages' bytes and byte order."""
    if type(state) is not dict:
        raise Refusal(f"does not hold tensors by name: {EXPECTED}")
    words = {}
    for key, storage in storages.items():
        # Unsigned integers, as bfloat16 has no byte orders.
        size = storage.dtype.itemsize
        stored = np.frombuffer(buffers[key], f"{order}u{size}", storage.length)
        words[key] = stored.astype(f"u{size}", copy=False)
    whole = {}
    # Each dict once, as one may be in several others, or in itself.
    made, rest = {id(state): whole}, [(state, whole)]
    while rest:
        found, arrays = rest.pop()
        for name, value in found.items():
            if type(value) is Tensor:
                value = _array(name, value, words[value.storage.key])
            elif type(value) is dict:
                if id(value) not in made:
                    made[id(value)] = {}
                    rest.append((value, made[id(value)]))
                value = made[id(value)]
            arrays[name] = value
    return whole


def _array(name, tensor, words):
    """View of a storage's words as a tensor."""
    dtype, offset, size, stride = tensor.storage.dtype, tensor.offset, tensor.size, tensor.stride
    # In Python's integers, which do not overflow as those of numpy's own check do.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= words.size and 0 not in size:
        raise Refusal(f"places {name!r:.90} outside of its storage: {_AGAIN}")
    stride = [step * dtype.itemsize for step in stride]
    array = np.ndarray(size, dtype, words, offset * dtype.itemsize, stride)
    array.flags.writeable = False
    return array


def _global(named):
    module, _, name = named.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _encoded(value):
    """Opcodes that push a value onto the unpickler's stack; bytes are opcodes already."""
    if isinstance(value, str):
        return pickle.BINUNICODE + len(value.encode()).to_bytes(4, "little") + value.encode()
    if isinstance(value, int):
        return pickle.LONG1 + b"\x08" + value.to_bytes(8, "little", signed=True)
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(_encoded(part) for part in value) + pickle.TUPLE
    return value


def _pickled(tensors):
    """The pickle of contiguous tensors, the k-th in storage k."""
    # By name, which is the same in both byte orders.
    kinds = {dtype.name: _global(storage) for storage, dtype in STORAGES.items()}
    empty = _global(ORDERED_DICT) + pickle.EMPTY_TUPLE + pickle.REDUCE
    opcodes = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for key, (name, array) in enumerate(tensors.items()):
        kind = array.dtype.name
        if kind not in kinds:
            raise UserError(f"{name} is of {kind}: convert it to one of {', '.join(kinds)}.")
        storage = _encoded(("storage", kinds[kind], str(key), "cpu", array.size))
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        arguments = (storage + pickle.BINPERSID, 0, array.shape, stride, pickle.NEWFALSE, empty)
        opcodes += [_encoded(name), _global(REBUILD), _encoded(arguments), pickle.REDUCE]
    return b"".join([*opcodes, pickle.SETITEMS, pickle.STOP])


def _entries(tensors):
    """(name, bytes) of each entry of the archive, one array's at a time."""
    yield from (("data.pkl", _pickled(tensors)), ("version", b"3\n"), ("byteorder", b"little"))
    for key, array in enumerate(tensors.values()):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        yield f"data/{key}", memoryview(array.reshape(-1).view(np.uint8))
