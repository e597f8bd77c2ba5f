"""Pickles of dicts of NumPy arrays, read by the interpreter of torch_pickle.py: nothing is called.

An array is pickled as a call of `_reconstruct` and a state (version, shape, dtype, order, bytes),
or since protocol 5 as a call of `_frombuffer`; a NumPy number as a call of `scalar`.
"""

import dataclasses
import math
import re

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.tensor_files.torch_pickle import VALUES, Machine, Named, Refusal, expect

RECONSTRUCT, SCALAR, FROM_BUFFER = "multiarray._reconstruct", "multiarray.scalar", "_frombuffer"
# {name in a pickle: what it is}, of NumPy before and since version 2.
ADMITTED = {
    **{
        f"numpy.{core}.{name}": name for core in ("core", "_core") for name in (RECONSTRUCT, SCALAR)
    },
    **{f"numpy.{core}.numeric.{FROM_BUFFER}": FROM_BUFFER for core in ("core", "_core")},
    **{"numpy.dtype": "dtype", "numpy.ndarray": "ndarray"},
}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
NUMBERS = re.compile("[<>|=]?[fiub][0-9]{1,2}")  # types of what arrays hold
DEPTH = 4  # of dicts in dicts
EXPECTED = "give a file of a dict of NumPy arrays"


@dataclasses.dataclass(eq=False)
class _Type:
    """A dtype, whose byte order is set after it was made."""

    dtype: np.dtype


@dataclasses.dataclass(eq=False)
class _Array:
    """An array, which is filled after it was made."""

    values: np.ndarray | None = None


def read(path):
    """The dict in a pickle, whose values are arrays, numbers, text, or dicts of the same.

    Args:
      path: of a file of at most as many bytes as this machine has memory.

    Raises:
      UserError: if it cannot be read, is corrupt, or holds anything else.
    """
    with files.opened(path) as file:
        try:
            machine = Machine(_named, _called, _set_state, frozenset(VALUES | BYTES))
            return _finished(expect(machine.load(file), dict), {})
        except Refusal as refusal:
            raise UserError(f"{path} {refusal}") from None
        except Exception as error:  # a corrupt file can make pickletools and NumPy raise anything
            raise UserError(
                f"{path} is incomplete, corrupt, or no pickle of arrays: {EXPECTED}, or download "
                "it again."
            ) from error


def _named(name):
    if name not in ADMITTED:
        raise Refusal(f"names {name[:200]!r}, which is no array and was not called: {EXPECTED}.")
    return Named(ADMITTED[name])


def _called(name, arguments):
    if name == "dtype":
        if not NUMBERS.fullmatch(expect(arguments[0], str)):
            raise ValueError(f"a dtype {arguments[0][:80]}")
        return _Type(np.dtype(arguments[0]))
    if name == RECONSTRUCT:
        return _Array()
    if name == SCALAR:
        kind, content = arguments
        return _Array(_array((), kind, "C", content))
    if name == FROM_BUFFER:
        content, kind, shape, order = arguments
        return _Array(_array(shape, kind, order, content))
    raise ValueError(f"a call of {name}")


def _set_state(value, state):
    """Sets a dtype's byte order, or an array's values."""
    if type(value) is _Type:
        value.dtype = value.dtype.newbyteorder(expect(state[1], str))
        return
    _, shape, kind, is_fortran, content = expect(state, tuple)
    expect(value, _Array).values = _array(shape, kind, "F" if is_fortran else "C", content)


def _array(shape, kind, order, content):
    """The numbers in some bytes; a view of them."""
    dtype = expect(kind, _Type).dtype
    if type(content) not in (bytes, bytearray):
        raise ValueError(f"an array of {dtype}")
    if min((expect(side, int) for side in expect(shape, tuple)), default=0) < 0:
        raise ValueError("a negative length")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array of another length")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _finished(value, done, depth=0):
    """The same value with arrays as such.

    Args:
      value: of a pickle.
      done: {id of a dict: what it became}, as a few that hold each other many times are many.
      depth: how many dicts hold it.
    """
    if type(value) is _Array:
        return value.values
    if type(value) is dict:
        if depth == DEPTH:
            raise ValueError("nested too deeply")
        if id(value) not in done:
            content = value.items()
            done[id(value)] = {expect(k, str): _finished(v, done, depth + 1) for k, v in content}
        return done[id(value)]
    if type(value) not in (int, float, str, bool, type(None)):
        raise ValueError(f"a value of {type(value)}")
    return value
