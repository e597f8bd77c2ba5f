"""PyTorch's files of state dicts, read and written without PyTorch.

A file of torch.save is a pickle and the storages that its tensors lie in. A pickle can name any
function and call it, so reading admits the few names that a state dict consists of and refuses
all others before anything is called. Both layouts are read: the zip archive that PyTorch writes
since 1.6, NAME/data.pkl and NAME/data/KEY, and the stream of pickles and storages before it.
"""

import collections
import io
import math
import pathlib
import pickle
import pickletools
import zipfile

import ml_dtypes
import numpy as np

from jaxdiff.errors import UserError

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_REBUILD = "torch._utils._rebuild_tensor_v2"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_EXPECTED = "give a file that torch.save(model.state_dict(), file) wrote."


def read(path):
    """Reads the state dict of a PyTorch file; runs nothing that the file may contain.

    Args:
      path: of a file that torch.save(state_dict) wrote, in the zip layout or the older one.

    Returns:
      {name: numpy array} in the file's order, of the tensors' shapes and dtypes, bfloat16 as that
      of ml_dtypes. The arrays are read-only views of the file's storages: tensors that share one
      share memory, and reading takes about as much of it as the file is long.

    Raises:
      UserError: if the file cannot be read, is damaged, or holds anything but tensors by name.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(32)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                return _read_zip(file)
            if _MAGIC.to_bytes(10, "little") in start:
                return _read_stream(file)
            raise _Refusal(f"is not a file of torch.save: {_EXPECTED}")
    except _Refusal as refusal:
        raise UserError(f"{path} {refusal}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {_EXPECTED}") from None
    # A damaged file can make pickle, zipfile and numpy raise nearly anything.
    except Exception as error:
        raise UserError(
            f"{path} is incomplete, damaged, not a state dict, or larger than this machine's "
            "memory: download or save it again, or read it on a larger machine."
        ) from error


def write(path, tensors):
    """Writes a file that torch.load(path, weights_only=True) reads as an OrderedDict.

    The file appears complete or not at all. Equal tensors make equal files.

    Args:
      path: of the file; one that is there is replaced.
      tensors: {name: numpy array}, of a dtype that `read` can return. Written contiguously.

    Raises:
      UserError: if an array has a dtype that PyTorch files do not hold.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            for name, data in _entries(tensors):
                # A ZipInfo of its own has no time of writing, and is stored uncompressed.
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Refusal(Exception):
    """The end of a sentence that begins with the file's path."""


# Where a tensor lies: the key of its storage, and offset and strides that count elements.
_Tensor = collections.namedtuple("_Tensor", "storage offset size stride requires_grad hooks")


class _Unpickler(pickle.Unpickler):
    """Makes a _Tensor of every tensor and notes the storages, {key: (dtype, length)}."""

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}
        # Made anew for each pickle, as a pickle can set attributes of the functions that it names.
        self.admitted = {
            "collections.OrderedDict": collections.OrderedDict,
            _REBUILD: lambda *arguments: _Tensor(*arguments),
            "torch._utils._rebuild_parameter": lambda tensor, grad, hooks: tensor,
            **{name: name for name in _STORAGES},
        }

    def find_class(self, module, name):
        """What the pickle may name, and nothing else: none of it is imported."""
        named = f"{module}.{name}"
        if named not in self.admitted:
            raise _Refusal(f"names {named!r}, which is no tensor and was not called: {_EXPECTED}")
        return self.admitted[named]

    def persistent_load(self, pid):
        """The key of the storage that an id describes; the stream's end in a view, now None."""
        kind, storage, key, _, length, *view = pid
        described = _STORAGES[storage], length
        same = self.storages.setdefault(key, described) == described
        if not same or (kind, type(key), type(length)) != ("storage", str, int) or any(view):
            raise pickle.UnpicklingError(f"unexpected persistent id {pid}")
        return key


def _unpickle(file):
    """(value, storages) of the pickle that starts at the file's position."""
    start = file.tell()
    puts = [index for code, index, _ in pickletools.genops(file) if code.name.endswith("PUT")]
    # The unpickler makes room for as many values as the largest index says.
    if max(puts, default=0) > len(puts):
        raise pickle.UnpicklingError(f"memo index {max(puts)} among {len(puts)} values")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or any(info.compress_type for info in archive.infolist()):
            raise _Refusal(f"is a zip archive that torch.save did not write: {_EXPECTED}")
        root = pickles[0].removesuffix("data.pkl")
        state, storages = _unpickle(io.BytesIO(archive.read(pickles[0])))
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        buffers = {key: archive.read(f"{root}data/{key}") for key in storages}
    return _arrays(state, storages, buffers, ">" if big else "<")


def _read_stream(file):
    if (_unpickle(file)[0], _unpickle(file)[0]) != (_MAGIC, _VERSION):
        raise _Refusal(f"is in an unknown version of torch.save's format: {_EXPECTED}")
    _unpickle(file)  # The machine that wrote it. Storages are little-endian whatever it was.
    (state, storages), (keys, _) = _unpickle(file), _unpickle(file)
    buffers = {}
    for key in keys:
        dtype, length = storages[key]
        if int.from_bytes(file.read(8), "little") != length:
            raise EOFError(f"storage {key} is not of {length} elements")
        buffers[key] = file.read(length * dtype.itemsize)
    return _arrays(state, storages, buffers, "<")


def _arrays(state, storages, buffers, order):
    """{name: array} of an unpickled state dict, given its storages' bytes and byte order."""
    if type(state) not in (dict, collections.OrderedDict):
        raise _Refusal(f"does not hold tensors by name: {_EXPECTED}")
    arrays, words = {}, {}
    for key, (dtype, length) in storages.items():
        # Unsigned integers, as bfloat16 has no byte orders.
        stored, native = f"{order}u{dtype.itemsize}", f"u{dtype.itemsize}"
        words[key] = np.frombuffer(buffers[key], stored, length).astype(native, copy=False)
    # The method of dict: a pickle can give an OrderedDict an attribute `items`.
    for name, value in dict.items(state):
        if type(name) is not str or type(value) is not _Tensor:
            raise _Refusal(f"holds more than tensors by name, under {name!r}: {_EXPECTED}")
        arrays[name] = _array(name, value, storages[value.storage][0], words[value.storage])
    return arrays


def _array(name, tensor, dtype, words):
    """View of a storage's words as a tensor."""
    offset, size, stride = tensor[1:4]
    if min((offset, *size, *stride)) < 0:
        raise pickle.UnpicklingError(f"{name} is described by {tensor}")
    # In Python's integers, which do not overflow as those of numpy's own check do.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= words.size and 0 not in size:
        raise _Refusal(f"places {name!r} outside of its storage: download or save it again.")
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
    kinds = {dtype.name: _global(storage) for storage, dtype in _STORAGES.items()}
    empty = _global("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    opcodes = [pickle.PROTO, b"\x02", empty, pickle.MARK]
    for key, (name, array) in enumerate(tensors.items()):
        kind = array.dtype.name
        if kind not in kinds:
            raise UserError(f"{name} is of {kind}: convert it to one of {', '.join(kinds)}.")
        storage = _encoded(("storage", kinds[kind], str(key), "cpu", array.size))
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        arguments = (storage + pickle.BINPERSID, 0, array.shape, stride, pickle.NEWFALSE, empty)
        opcodes += [_encoded(name), _global(_REBUILD), _encoded(arguments), pickle.REDUCE]
    return b"".join([*opcodes, pickle.SETITEMS, pickle.STOP])


def _entries(tensors):
    """(name, bytes) of each entry of the archive, one array's at a time."""
    yield from (("data.pkl", _pickled(tensors)), ("version", b"3\n"), ("byteorder", b"little"))
    for key, array in enumerate(tensors.values()):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        yield f"data/{key}", memoryview(array.reshape(-1).view(np.uint8))
