"""Reads the text of a compiled program (HLO): its computations, instructions, shapes and loops."""

import dataclasses
import math
import re
from functools import cached_property

_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"\b(?:calls|body|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"\b(?:true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_PARENTHESIS = re.compile(r"[()]")
_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)"?')


@dataclasses.dataclass(frozen=True)
class Array:
    """Shape and place of one array.

    Attributes:
      dtype: such as bf16.
      dims: its sizes.
      order: axes from the innermost outwards.
      tile: what the innermost axes are padded to multiples of, such as (8, 128); () of none.
      space: 0: the device's main memory; others are on the chip, or of the host.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def size(self):
        """Bytes without padding."""
        return math.prod(self.dims) * _itemsize(self.dtype)

    @property
    def padded(self):
        """Bytes that it takes with its innermost axes padded to whole tiles."""
        if not self.tile:
            return self.size
        sides = [self.dims[axis] for axis in reversed(self.order)] or [1]
        sides = [1] * (len(self.tile) - len(sides)) + sides
        outer, inner = sides[: -len(self.tile)], sides[-len(self.tile) :]
        inner = [-(-side // tile) * tile for side, tile in zip(inner, self.tile, strict=True)]
        return math.prod(outer + inner) * _itemsize(self.dtype)


def _itemsize(dtype):
    """Bytes of an element; 0 of what is no array."""
    if dtype == "pred":
        return 1
    match = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
    return int(match[1]) / 8 if match else 0


def arrays(text):
    """The Arrays of a type as it is printed, of a tuple all of its."""
    found = []
    for dtype, dims, order, layout in _SHAPE.findall(text):
        sizes = tuple(int(side) for side in re.findall(r"\d+", dims))
        axes = tuple(int(axis) for axis in order.split(",") if axis)
        tile = re.search(r"T\(([\d,]+)\)", layout)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(
            Array(
                dtype,
                sizes,
                axes if len(axes) == len(sizes) else tuple(reversed(range(len(sizes)))),
                tuple(map(int, tile[1].split(","))) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: its own and its operation's.
      type: of its result, as printed.
      operands: names of the instructions that it reads.
      attributes: the rest of the line.
      is_root: whether its result is the computation's.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @cached_property
    def results(self):
        """The Arrays of its result."""
        return arrays(self.type)

    @property
    def calls(self):
        """Name of the computation that a fusion, call or loop runs, or None."""
        match = _CALLS.search(self.attributes)
        return match[1] if match else None

    @property
    def condition(self):
        """Name of a loop's condition, or None."""
        match = re.search(r"\bcondition=%?([\w.\-]+)", self.attributes)
        return match[1] if match else None

    @property
    def branches(self):
        """Names of what a conditional chooses from."""
        found = []
        for one, several in _BRANCHES.findall(self.attributes):
            found += [one] if one else re.findall(r"[\w.\-]+", several)
        return found

    @property
    def path(self):
        """The scopes and the primitive that it comes from, or an empty text."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def target(self):
        """What a custom call calls, or an empty text."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """A list of instructions."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def named(self):
        """{name: Instruction}."""
        return {each.name: each for each in self.instructions}

    @cached_property
    def users(self):
        """{name: the Instructions that read it}."""
        users = {}
        for each in self.instructions:
            for operand in set(each.operands):
                users.setdefault(operand, []).append(each)
        return users

    @cached_property
    def root(self):
        """The instruction whose result is the computation's."""
        return next((i for i in self.instructions if i.is_root), self.instructions[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A compiled program for one device.

    Attributes:
      computations: {name: Computation}.
      entry: the name of the one that runs.
      devices: how many run it together.
      is_tiled: whether arrays are laid out in tiles, as on TPUs, where spaces but 0 are on the
        chip; on GPUs they are main memory too.
    """

    computations: dict[str, Computation]
    entry: str
    devices: int
    is_tiled: bool

    def trips(self, loop, default=1):
        """How often a `while` runs, where the compiler knows; else the default."""
        if match := _TRIPS.search(loop.attributes):
            return int(match[1])
        condition = self.computations.get(loop.condition)
        # for (i = 0; i < bound; i++) with one constant, the bound.
        if condition and "direction=LT" in condition.root.attributes:
            bounds = [i for i in condition.instructions if i.opcode == "constant"]
            if len(bounds) == 1 and bounds[0].attributes.isdigit():
                return int(bounds[0].attributes)
        return default


def parse(text):
    """The Module of `compiled.as_text()`."""
    computations, entry, name, lines = {}, None, None, []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line == "}" and name:
            computations[name] = Computation(name, tuple(map(_instruction, lines)))
            name = None
        elif name and _LINE.match(line):
            lines.append(line)
        elif name and lines:
            lines[-1] += line  # metadata of Pallas kernels have lines of their own
    devices = re.search(r"(?:num_partitions|replica_count)=(\d+)", text[: text.find("\n")])
    return Module(computations, entry, int(devices[1]) if devices else 1, ":T(" in text)


def _instruction(line):
    match = _LINE.match(line)
    rest = line[match.end() :]
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    opcode, inside, attributes = rest[:start], rest[start + 1 : end - 1], rest[end:]
    if opcode in ("constant", "parameter"):
        return Instruction(match[2], opcode, type_, (), inside, bool(match[1]))
    operands = tuple(_NAME.findall(inside))
    return Instruction(match[2], opcode, type_, operands, attributes, bool(match[1]))


def _closing(text, start):
    """Where the parenthesis that opens at `start` is closed, and the text after it begins."""
    depth = 0
    for match in _PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return len(text)
