"""The pickles in PyTorch's files, read by an interpreter of the few opcodes that tensors need.

Python's own unpickler calls whatever a pickle names, hashes whatever is where a key is expected
(which takes exponential time for tuples of tuples), and makes room for as many values as the
largest index says. This one calls nothing, hashes only text and numbers, keeps what it has read and
no more, and ends after a fixed number of opcodes. It does not compare, print or walk through the
values that it makes, so it does not matter how deeply they are nested.
"""

import dataclasses
import pickle
import pickletools

import ml_dtypes
import numpy as np

MOST_OPCODES = 1_000_000  # a network of 10,000 tensors has about 350,000
MOST_AXES = 32

STORAGES = {
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
ORDERED_DICT = "collections.OrderedDict"
REBUILD = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
ADMITTED = {ORDERED_DICT, REBUILD, PARAMETER, *STORAGES}
EXPECTED = "give a file that torch.save(model.state_dict(), file) wrote."

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = {"BINPUT", "LONG_BINPUT"}
GETS = {"BINGET", "LONG_BINGET"}


class Refusal(Exception):
    """Raised for a file that is refused; the message ends a sentence that begins with its path."""


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """A name that a pickle calls, or passes on."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Numbers of one type in a row; `key` says where the file has them."""

    key: str
    dtype: np.dtype
    length: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; the offset and the strides count its numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def load(file):
    """Reads the pickle that starts at a file's position.

    Returns:
      (value, storages): dicts, lists, tuples, text, numbers, Named and Tensor; and {key: Storage}.

    Raises:
      Refusal, pickle.UnpicklingError, or nearly anything that a corrupt file provokes.
    """
    machine = Machine(named, called)
    return machine.load(file), machine.storages


class Machine:
    """The stack, the marks in it, the values kept for later, and the storages met.

    Attributes:
      named: name -> what stands for it, or a Refusal.
      called: (name, arguments) -> the value that a call of an admitted name makes.
      set_state: (value, state), of the attributes that a value is given; None: they are dropped.
      values: opcodes whose argument is the value.
    """

    def __init__(self, named, called, set_state=None, values=frozenset(VALUES)):
        self.named, self.called, self.set_state, self.values = named, called, set_state, values
        self.stack, self.marks, self.memo, self.storages = [], [], {}, {}

    def load(self, file):
        """The value of the pickle that starts at a file's position."""
        for count, (code, argument, _) in enumerate(pickletools.genops(file)):
            if count == MOST_OPCODES:
                raise Refusal(f"describes more than {MOST_OPCODES:,} values: give another file.")
            if code.name != "STOP":
                self.run(code.name, argument)
        (value,) = self.stack
        return value

    def run(self, name, argument):
        """Runs one opcode."""
        stack = self.stack
        if name in self.values:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in PUTS:
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in GETS:
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in TUPLES:
            stack.append(tuple(self.last(TUPLES[name])))
        elif name not in ("PROTO", "FRAME"):
            self.build(name, argument)

    def build(self, name, argument):
        """Runs an opcode that makes or changes more than a tuple."""
        stack = self.stack
        if name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEM", "SETITEMS"):
            items = self.last(2) if name == "SETITEM" else self.since_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                put(stack[-1], key, value)
        elif name in ("APPEND", "APPENDS"):
            items = self.last(1) if name == "APPEND" else self.since_mark()
            expect(stack[-1], list).extend(items)
        elif name in ("GLOBAL", "INST"):
            stack.append(self.named(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            module, attribute = self.last(2)
            stack.append(self.named(f"{expect(module, str)}.{expect(attribute, str)}"))
        elif name == "REDUCE":
            function, arguments = self.last(2)
            stack.append(self.called(expect(function, Named).name, expect(arguments, tuple)))
        elif name == "BUILD":
            (state,) = self.last(1)
            if self.set_state:  # else not needed, such as _metadata of a state dict
                self.set_state(stack[-1], state)
        elif name == "BINPERSID":
            stack.append(self.storage(*self.last(1)))
        else:
            raise pickle.UnpicklingError(f"the opcode {name}")

    def last(self, count):
        """Takes the last values off the stack."""
        taken = self.stack[-count:]
        if len(taken) < count:
            raise pickle.UnpicklingError("the stack is empty")
        del self.stack[-count:]
        return taken

    def since_mark(self):
        """Takes the values after the last mark off the stack."""
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def storage(self, pid):
        """The storage that a persistent id describes; the stream's end in a view, now None."""
        kind, storage, key, _, length, *view = expect(pid, tuple)
        dtype = STORAGES.get(expect(storage, Named).name)
        is_one = expect(kind, str) == "storage" and dtype and expect(length, int) >= 0
        if not is_one or any(part is not None for part in view):
            raise pickle.UnpicklingError("unexpected persistent id")
        one = self.storages.setdefault(expect(key, str), Storage(key, dtype, length))
        if (one.dtype, one.length) != (dtype, length):
            raise pickle.UnpicklingError(f"two descriptions of the storage {key[:80]}")
        return one


def expect(value, kind):
    """A value of exactly that type."""
    if type(value) is not kind:
        raise pickle.UnpicklingError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


def named(name):
    """What a pickle may name, and nothing else: none of it is imported."""
    if name not in ADMITTED:
        raise Refusal(f"names {name[:200]!r}, which is no tensor and was not called: {EXPECTED}")
    return Named(name)


def put(values, key, value):
    """Sets a value of a dict under a name; or under a number, as optimizers have them."""
    if type(key) not in (str, int):
        raise Refusal(f"has a {type(key).__name__} where a name is expected: {EXPECTED}")
    expect(values, dict)[key] = value


def called(name, arguments):
    """The value that a call of an admitted name makes."""
    if name == ORDERED_DICT:
        values = {}
        for pair in expect(arguments[0], list) if arguments else ():
            put(values, *pair)
        return values
    if name == PARAMETER:
        return expect(arguments[0], Tensor)
    if name != REBUILD:
        raise pickle.UnpicklingError(f"a call of {name}")
    storage, offset, size, stride, *_ = arguments
    numbers = [offset, *expect(size, tuple), *expect(stride, tuple)]
    if min(expect(number, int) for number in numbers) < 0:
        raise pickle.UnpicklingError("a negative number in a tensor's description")
    if len(size) != len(stride) or len(size) > MOST_AXES:
        raise pickle.UnpicklingError(f"a tensor of {len(size)} axes and {len(stride)} strides")
    return Tensor(expect(storage, Storage), offset, size, stride)
