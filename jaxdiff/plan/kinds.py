"""What a compiled program moves and computes, by kind of operation, and the least time it takes.

Of every instruction that runs by itself (a fusion is one), what it reads and writes in main memory
counts: operands and results, once each, times the turns of the loops around it. An operand that a
fusion only slices counts as its slices, one updated in place as the update; what is kept in
a TPU's vector memory is free, and moving it there or back is counted. Nothing is assumed to stay
in a cache of a GPU. Fused kernels count as they are called, by operands and results.

An instruction is of the kind that the scopes in its metadata name (`scopes.KINDS`); a fusion with
a product in it of the product's, because that runs longest; one without any metadata, such as a
copy, of the kind of what reads its result.
"""

import dataclasses
import math
import re
from collections import Counter

from jaxdiff.plan import hlo
from jaxdiff.plan.products import flops_of
from jaxdiff.scopes import KINDS, OTHER, kind_of, ordered

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "add-dependency"),
        *("after-all", "partition-id", "replica-id", "opt-barrier", "get-dimension-size"),
    )
)
# Custom calls that only rename what they are given.
FREE_CALLS = ("ConcatBitcast", "AllocateBuffer", "Sharding", "SPMDFullToShardShape")
SLICES = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction that runs by itself.

    Attributes:
      kind: one of `scopes.ORDER`.
      name: in the program's text.
      path: scopes and primitive that it, or else what reads its result, comes from.
      times: how often it runs in a call of the program.
      flops: of its products; 0 of fused kernels, whose operations the compiler does not know.
      bytes: read and written in main memory.
      padded: the same with the padding of TPU's tiles.
    """

    kind: str
    name: str
    path: str
    times: int
    flops: int
    bytes: int
    padded: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The operations of a program on one device."""

    operations: tuple[Operation, ...]

    def by_kind(self, field):
        """{kind: sum over its operations} of `flops`, `bytes` or `padded`."""
        sums = Counter()
        for each in self.operations:
            sums[each.kind] += each.times * getattr(each, field)
        return ordered(sums)

    @property
    def bytes(self):
        """All bytes, with padding."""
        return sum(self.by_kind("padded").values())

    @property
    def kernels(self):
        """How many operations run in a call."""
        return sum(each.times for each in self.operations)

    def seconds_by_kind(self, peak, bandwidth, flops=None):
        """The least time that each kind takes, {kind: seconds}.

        Operations run one after another, and each takes at least as long as its products and as
        its traffic:

            T_kind = max( sum over i in kind of max(F_i / peak, B_i / bandwidth), F_kind / peak )

        F_kind, which counts fused kernels, is that of the plain program, on this device.

        Args:
          peak: operations a second.
          bandwidth: bytes a second of main memory.
          flops: {kind: F_kind} of `counts.flops_by_kind`, divided by the devices; may be left out.
        """
        seconds = Counter()
        for each in self.operations:
            seconds[each.kind] += each.times * max(each.flops / peak, each.padded / bandwidth)
        for kind, count in (flops or {}).items():
            seconds[kind] = max(seconds[kind], count / peak)
        return ordered(seconds)


@dataclasses.dataclass(frozen=True)
class Collective:
    """What devices exchange, all operations of a kind, a type and a group size together.

    Attributes:
      kind: such as all-reduce.
      dtype: of the elements.
      group: how many devices take part in one.
      count: how many operations run in a call.
      bytes: what a device has of all of them: of an all-gather the result, of others the operand.
    """

    kind: str
    dtype: str
    group: int
    count: int
    bytes: int

    @property
    def sent(self):
        """The least that a device must send, bytes; the best algorithms send no more."""
        share = (self.group - 1) / self.group
        factors = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return factors.get(self.kind, share) * self.bytes


def traffic(text, trips=1):
    """The Traffic of `compiled.as_text()`; `trips`: of loops whose turns the compiler cannot know.

    Collectives are left out: see `collectives`.
    """
    module = hlo.parse(text)
    found = []
    for computation, each, times in _running(module, trips):
        if _kind_of_collective(each) is None:
            size, padded = _moved(module, computation, each)
            flops = flops_of(module, computation, each)
            if padded or flops or each.opcode == "custom-call":
                kind = _kind(module, computation, each)
                path = _path(module, computation, each)
                found.append(Operation(kind, each.name, path, times, flops, size, padded))
    return Traffic(tuple(found))


def collectives(text, trips=1):
    """The Collectives of `compiled.as_text()`, largest first; arguments as of `traffic`."""
    module = hlo.parse(text)
    sums, channels = {}, set()
    for computation, each, times in _running(module, trips):
        found = _collective(module, each)
        if found is None:
            continue
        kind, where, instruction = found
        channel = re.search(r"channel_id=(\d+)", instruction.attributes)
        if channel and channel[1] in channels:
            continue  # a part of one that has been split to overlap with other work
        channels.add(channel and channel[1])
        group = _group(module, instruction)
        operands = _operands(where or computation, instruction)
        for dtype in {array.dtype for array in operands}:
            size = sum(array.size for array in operands if array.dtype == dtype)
            size *= group if kind == "all-gather" else 1
            count, total = sums.get((kind, dtype, group), (0, 0))
            sums[kind, dtype, group] = count + times, total + times * size
    found = [Collective(*key, *value) for key, value in sums.items()]
    return tuple(sorted(found, key=lambda each: -each.bytes))


def _running(module, trips):
    """(computation, instruction, times) of all that runs by itself, from the entry on."""

    def walk(name, times):
        computation = module.computations[name]
        for each in computation.instructions:
            if each.opcode == "while":
                yield from walk(each.calls, times * module.trips(each, trips))
            elif each.opcode in ("call", "async-start") and each.calls:
                yield from walk(each.calls, times)
            elif each.opcode == "conditional":
                # The longest branch, by what it moves.
                chosen = [tuple(walk(branch, times)) for branch in each.branches]
                yield from max(chosen, key=lambda found: _weight(module, found), default=())
            elif each.opcode not in FREE and not each.opcode.endswith(("-done", "-update")):
                yield computation, each, times

    return walk(module.entry, 1)


def _weight(module, running):
    return sum(times * _moved(module, where, each)[1] for where, each, times in running)


def _kind_of_collective(instruction):
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def _collective(module, instruction):
    """(kind, its computation if another, the instruction) if it is a collective, else None."""
    if kind := _kind_of_collective(instruction):
        return kind, None, instruction
    if instruction.opcode != "fusion" or instruction.calls not in module.computations:
        return None
    # libtpu writes a reduce-scatter, and collectives that overlap with other work, as fusions.
    inner = module.computations[instruction.calls]
    for each in inner.instructions:
        if kind := _kind_of_collective(each):
            is_scatter = kind == "all-reduce" and inner.root.opcode == "dynamic-slice"
            return "reduce-scatter" if is_scatter else kind, inner, each
    return None


def _group(module, instruction):
    """How many devices take part in a collective; two of a permutation."""
    text = instruction.attributes
    if "source_target_pairs" in text:
        return 2
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return groups[1].count(",") + 1
    if groups := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(groups[1])
    if groups := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", groups[2])  # an axis or a part of one
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return module.devices


def _operands(computation, instruction):
    """The Arrays that an instruction reads, each operand once."""
    names = dict.fromkeys(instruction.operands)
    return [array for name in names for array in computation.named[name].results]


def _moved(module, computation, each):
    """(bytes, bytes with padding) that an instruction reads and writes in main memory."""
    if each.opcode == "custom-call" and each.target in FREE_CALLS:
        return 0, 0
    if each.opcode in ("copy-start", "slice-start"):
        # (destination, source, context), or ((source), destination, context) of a slice.
        first, second = each.results[:2]
        there, here = (first, second) if each.opcode == "copy-start" else (second, first)
        parts = [there, dataclasses.replace(there, space=here.space)]
    elif each.opcode == "fusion":
        parts = _fusion_parts(module.computations[each.calls], computation, each)
    elif each.opcode in SLICES:
        # Read where the operand is: slices of parameters are fetched into a TPU's vector memory.
        (source, *_) = computation.named[each.operands[0]].results
        read = [dataclasses.replace(array, space=source.space) for array in each.results]
        parts = [*read, *each.results]
    elif each.opcode == "dynamic-update-slice":
        parts = [*computation.named[each.operands[1]].results] * 2
    else:
        parts = [*_operands(computation, each), *each.results]
    parts = [part for part in parts if part.space == 0 or not module.is_tiled]
    return int(sum(part.size for part in parts)), int(sum(part.padded for part in parts))


def _fusion_parts(inner, computation, fusion):
    """The Arrays that a fusion reads and writes."""
    parameters = {i.attributes: i.name for i in inner.instructions if i.opcode == "parameter"}
    parts, seen = [], set()
    for number, name in enumerate(fusion.operands):
        whole = computation.named[name].results
        read = _read(inner, parameters.get(str(number)))
        if read is None:
            parts += whole if name not in seen else ()
            seen.add(name)
        else:
            space = whole[0].space if whole else 0
            parts += [dataclasses.replace(array, space=space) for array in read]
    return parts + _written(inner, inner.root, fusion.results)


def _read(inner, name):
    """The slices of a parameter that a fusion reads, as Arrays; None: all of it."""
    found = []
    for user in inner.users.get(name, ()):
        if user.opcode in SLICES and user.operands[0] == name:
            found += user.results
        elif user.opcode == "dynamic-update-slice" and user.operands.count(name) == 1:
            if user.operands[0] != name:
                return None  # the update itself, or where it goes
        elif user.opcode == "tuple" or _kind_of_collective(user):
            pass  # handed on, or sent
        elif user.opcode == "bitcast":
            if (deeper := _read(inner, user.name)) is None:
                return None
            found += deeper
        else:
            return None
    return found


def _written(inner, root, results):
    """The Arrays that a fusion writes: its results, or the updates of what it changes in place."""
    while root.opcode in ("bitcast", "dynamic-slice") and root.operands[0] in inner.named:
        source = inner.named[root.operands[0]]
        if root.opcode == "dynamic-slice" and not _kind_of_collective(source):
            break
        root = source
    if root.opcode == "parameter" or _kind_of_collective(root):
        return []  # handed on, or received
    if root.opcode == "tuple" and len(root.operands) == len(results):
        pairs = zip(root.operands, results, strict=True)
        return [p for name, result in pairs for p in _written(inner, inner.named[name], (result,))]
    if root.opcode == "dynamic-update-slice":
        update = inner.named[root.operands[1]].results
        return [dataclasses.replace(array, space=results[0].space) for array in update]
    return list(results)


def _kind(module, computation, each):
    return _own_kind(module, each) or _readers_kind(module, computation, each, 6) or OTHER


def _own_kind(module, each):
    """The kind that an instruction's own metadata name, or None."""
    inner = module.computations.get(each.calls) if each.opcode == "fusion" else None
    products = [i for i in inner.instructions if _is_product(i)] if inner else [each]
    for product in products:
        if found := _product_kind(product.path):
            return found
    if found := kind_of(each.path):
        return found
    inside = Counter(kind_of(i.path) for i in inner.instructions) if inner else Counter()
    inside.pop(None, None)
    if each.path and not inside:
        return OTHER
    return inside.most_common(1)[0][0] if inside else None


def _is_product(instruction):
    return instruction.opcode in ("dot", "convolution")


def _product_kind(path):
    """The kind of a product; one outside of scopes by its primitive."""
    for primitive, scope in (("conv_general_dilated", "conv"), ("dot_general", "linear")):
        if path.endswith(primitive):
            return kind_of(path) or KINDS[scope]
    return None


def _readers_kind(module, computation, each, depth):
    """The kind of the first instruction that reads the result, or one of its results."""
    for user in computation.users.get(each.name, ()) if depth else ():
        if user.opcode not in FREE and (found := _own_kind(module, user)):
            return found
        if found := _readers_kind(module, computation, user, depth - 1):
            return found
    return None


def _path(module, computation, each, depth=6):
    """The path of an instruction or, without one, of what is fused in it or reads its result."""
    inner = module.computations.get(each.calls) if each.opcode == "fusion" else None
    paths = [each.path, *(i.path for i in inner.instructions)] if inner else [each.path]
    if found := next(filter(None, paths), ""):
        return found
    for user in computation.users.get(each.name, ()) if depth else ():
        if found := _path(module, computation, user, depth - 1):
            return found
    return ""
