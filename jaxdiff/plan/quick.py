"""An estimate of a program from one block of each kind, which shares what it compiles.

Of training, the network is traced as it is rematerialized, and cut at its blocks. Programs for
one device compute each distinct block once, forward and backward, what is between the blocks, and
the update of the state; what each costs counts as often as there are such blocks. Sampling, in
which devices exchange nothing, is compiled in full for one device. So one answer of the compiler
serves all topologies of a chip, at the same samples a device. What is exchanged in training follows
from how the parameters are sharded (jaxdiff.parallel.mesh.parameter_sharding):

    split parameters   all-gathered over fsdp for the forward and for the backward pass, in the type
                       that the network computes in; gradients reduce-scattered over fsdp, and their
                       parts summed over data, in float32
    the others         gradients summed over all devices, in float32

It knows nothing of fusions between blocks, nor of copies and collectives beyond these; without
remat a TPU may hold in vector memory what the whole program would keep in main memory.
"""

import dataclasses
import functools
import re
from collections import Counter

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from jaxdiff.config import replaced
from jaxdiff.parallel.mesh import make_mesh, placed, replicated
from jaxdiff.plan import cache, kinds, memory, programs
from jaxdiff.plan.hardware import Topology
from jaxdiff.plan.report import Cost
from jaxdiff.training.compiled import batch_shapes, state_template
from jaxdiff.training.fitting import on_a_device
from jaxdiff.training.objective import Objective
from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task

# Of a device's memory that the arguments of blocks compiled together may take; the rest is for
# their results and temporaries.
SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a training step.

    Attributes:
      function: of arrays alone.
      shapes: of what it takes, a list of jax.ShapeDtypeStruct.
      count: how often a step computes it.
    """

    function: object
    shapes: list
    count: int


def estimate_training(config, topology, mesh, use_cache=True):
    """The Costs of training: one, of a step.

    Args:
      config: a RunConfig.
      topology: a Topology.
      mesh: of its devices.
      use_cache: whether an earlier answer of the compiler will do.
    """
    template = state_template(Task.of(config), mesh)
    parts = pieces(config, template, mesh.size, one_device(topology))
    chip, operations, temp, seconds = topology.chip, [], 0, 0.0
    for group in _groups(parts, chip.usable_bytes * SHARE):
        program = _together(group, one_device(topology))
        answer = cache.compiled(program, _one(topology), use_cache)
        moved = weighted(kinds.traffic(answer["hlo"]), [part.count for part in group])
        operations += moved.operations
        temp, seconds = max(temp, answer["stats"]["temp"]), seconds + answer["compile_s"]
    moved = kinds.Traffic(tuple(operations))
    known = memory.of_training(config, template, mesh.size)
    cost = Cost(
        name="training step",
        turns=1,
        form="quick",
        memory={**known, "temporaries": temp},
        traffic=moved.by_kind("padded"),
        seconds=moved.seconds_by_kind(chip.bf16_flops, chip.hbm_bandwidth),
        collectives=exchanged(config, template.params, mesh),
        compile_s=seconds,
    )
    return (cost,)


def _groups(parts, limit):
    """The Pieces in lists whose arguments take at most `limit` bytes, or of one Piece."""
    groups, size = [[]], 0
    for part in parts:
        taken = memory.size_of(part.shapes)
        if groups[-1] and size + taken > limit:
            groups, size = [*groups, []], 0
        groups[-1].append(part)
        size += taken
    return groups


def estimate_sampling(job, topology, mesh, use_cache=True):
    """The Costs of the Programs of a sampling job, made for `one_device`, compiled for it."""
    job = dataclasses.replace(job, batch_size=job.batch_size // mesh.size)
    costs, chip = [], topology.chip
    for program in programs.sampling(job):
        answer = cache.compiled(program, _one(topology), use_cache)
        moved = kinds.traffic(answer["hlo"])
        known = {"parameters": memory.size_of(programs.parameters(job))}
        costs.append(
            Cost(
                name=program.name,
                turns=program.turns,
                form="quick",
                memory=memory.compiled(answer["stats"], known),
                traffic=moved.by_kind("padded"),
                seconds=moved.seconds_by_kind(chip.bf16_flops, chip.hbm_bandwidth),
                compile_s=answer["compile_s"],
            )
        )
    return tuple(costs)


def _one(topology):
    """The smallest topology of the same chip, by which answers are kept."""
    smallest = topology.chip.slices[0] if topology.chip.slices else "1"
    return Topology(topology.name, tuple(map(int, smallest.split("x"))))


def one_device(topology):
    """A mesh of one device of the topology's chip; the same whenever it is asked for."""
    return _first_device(_one(topology))


@functools.cache
def _first_device(topology):
    # Descriptions that are made twice are of different devices.
    return make_mesh(devices=topology.devices()[:1])


def _together(parts, one):
    """One Program of all pieces, which names each of them piece0, piece1 and so on."""
    whole = replicated(one)
    shapes = [placed(part.shapes, [whole] * len(part.shapes)) for part in parts]

    def one_of_each(*arguments):
        found = []
        for number, (part, values) in enumerate(zip(parts, arguments, strict=True)):
            with jax.named_scope(f"piece{number}"):
                found.append(part.function(*values))
        return found

    return programs.Program("one block of each kind", jax.jit(one_of_each), tuple(shapes))


def weighted(traffic, counts):
    """A Traffic whose operations run as often as the pieces that they belong to."""
    found = []
    for each in traffic.operations:
        piece = re.search(r"\bpiece(\d+)\b", each.path)
        times = each.times * (counts[int(piece[1])] if piece else 1)
        found.append(dataclasses.replace(each, times=times))
    return kinds.Traffic(tuple(found))


def pieces(config, template, devices, one):
    """The Pieces of a training step on one device.

    Args:
      config: a RunConfig.
      template: its State of shapes with shardings.
      devices: how many there are.
      one: a mesh of one of them.
    """
    training = config.training
    size = training.batch_size // devices
    cut = replaced(config, {"training.remat": True})
    parts = size // training.accumulate
    found = _blocks(Task.of(cut, one), parts, training.remat, training.accumulate)
    return [*found, _update(Task.of(config), jax.tree.map(on_a_device, template), size)]


def _blocks(task, size, remat, times):
    """The Pieces that blocks are, and what is between them."""
    params, examples = task.network.shapes, memory.examples(task, size)
    leaves, tree = jax.tree.flatten((params, examples))

    def loss(*values):
        return task.objective.losses(*jax.tree.unflatten(tree, values))[0]["loss"].mean()

    jaxpr = jax.make_jaxpr(loss)(*leaves)
    blocks = [eqn for eqn in jaxpr.eqns if _is_block(eqn)]
    kinds_of = Counter(map(_signature, blocks))
    firsts = {_signature(eqn): eqn for eqn in reversed(blocks)}
    found = []
    for signature, count in kinds_of.items():
        eqn = firsts[signature]
        body = jax.extend.core.ClosedJaxpr(eqn.params["jaxpr"], ())
        function = jax.extend.core.jaxpr_as_fun(body)
        shapes = [_shape(v) for v in eqn.invars]
        # Not for constants, such as the tables of a norm, whose own derivative does not take them.
        differentiated = [
            jnp.issubdtype(v.aval.dtype, jnp.floating) and v not in jaxpr.jaxpr.constvars
            for v in eqn.invars
        ]
        if remat:
            found.append(Piece(function, shapes, count * times))
        both = _with_gradient(function, shapes, differentiated, keep=not remat)
        found.append(Piece(*both, count * times))
    rest, inputs = _without(jaxpr, blocks)
    is_parameter = len(jax.tree.leaves(params))
    wanted = [
        jnp.issubdtype(shape.dtype, jnp.floating) and not is_parameter <= n < len(leaves)
        for n, shape in enumerate(inputs)
    ]
    return [*found, Piece(*_with_gradient(rest, inputs, wanted, keep=True), times)]


def _is_block(eqn):
    return eqn.primitive.name.startswith(("remat", "checkpoint"))


def _shape(variable):
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


def _signature(eqn):
    """The same for blocks that compute the same; the number of a block is of no account."""
    text = re.sub(r"(random_fold_in \w+) \d+:\w+\[\]", r"\1", str(eqn.params["jaxpr"]))
    return text, tuple(str(v.aval) for v in eqn.invars)


def _without(jaxpr, blocks):
    """(function, shapes): a program that takes the blocks' results and returns what they take."""
    body = jaxpr.jaxpr
    results = [v for eqn in blocks for v in eqn.outvars]
    made = {v for eqn in body.eqns if eqn not in blocks for v in eqn.outvars}
    taken = [v for eqn in blocks for v in eqn.invars if isinstance(v, type(results[0]))]
    taken = list(dict.fromkeys(v for v in taken if v in made))
    rest = body.replace(
        invars=[*body.invars, *results],
        outvars=[*body.outvars, *taken],
        eqns=[eqn for eqn in body.eqns if eqn not in blocks],
        debug_info=body.debug_info.with_unknown_names(),
    )
    function = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(rest, jaxpr.consts))
    return function, [_shape(v) for v in rest.invars]


def _with_gradient(function, shapes, differentiated, keep):
    """(function, shapes) of the gradient for some inputs; after its inputs come cotangents.

    `keep`: its results are wanted too; otherwise only what the gradient needs is computed again.
    """
    chosen = [n for n, wanted in enumerate(differentiated) if wanted]
    results = [
        number
        for number, shape in enumerate(jax.eval_shape(function, *shapes))
        if jnp.issubdtype(shape.dtype, jnp.floating)
    ]

    def both(*values):
        inputs, cotangents = list(values[: len(shapes)]), list(values[len(shapes) :])

        def of_chosen(*some):
            for place, value in zip(chosen, some, strict=True):
                inputs[place] = value
            found = function(*inputs)
            return [found[number] for number in results]

        found, backward = jax.vjp(of_chosen, *(inputs[n] for n in chosen))
        gradient = backward(cotangents)
        return (found, gradient) if keep else gradient

    outputs = jax.eval_shape(function, *shapes)
    given = [jax.ShapeDtypeStruct(outputs[n].shape, outputs[n].dtype) for n in results]
    return both, [*shapes, *given]


def _update(task, state, size):
    """The Piece that draws a batch's noise and updates the state with a gradient."""
    terms = task.objective.terms
    sums = jax.eval_shape(lambda: zero_sums(terms))
    arguments = (state, sums, batch_shapes(task.config, size), state.params)
    leaves, tree = jax.tree.flatten(arguments)
    config = replaced(task.config, {"training.accumulate": 1})

    def update(*values):
        state, sums, batch, gradient = jax.tree.unflatten(tree, values)

        def losses(params, examples):
            zeros = jnp.zeros(examples["x0"].shape[0])
            loss = _with_this_gradient(params, gradient) + examples["x0"].mean()
            return dict.fromkeys(terms, zeros + loss), zeros.astype(jnp.int32)

        given = dataclasses.replace(task, config=config, objective=Objective(terms, losses))
        return summing_step(given)(state, sums, batch)

    return Piece(update, leaves, 1)


@jax.custom_vjp
def _with_this_gradient(params, gradient):
    """0, with a gradient that is given."""
    return jnp.zeros(())


_with_this_gradient.defvjp(
    lambda params, gradient: (jnp.zeros(()), gradient),
    lambda gradient, _: (gradient, jax.tree.map(jnp.zeros_like, gradient)),
)


def exchanged(config, params, mesh):
    """The Collectives of a training step, by the rule above.

    Args:
      config: a RunConfig.
      params: parameters as shapes with shardings.
      mesh: the devices.
    """
    fsdp, data, times = mesh.shape["fsdp"], mesh.shape["data"], config.training.accumulate
    item = jnp.dtype(config.training.dtype).itemsize
    leaves = jax.tree.leaves(params)
    split = [leaf for leaf in leaves if any(leaf.sharding.spec)]
    numbers = {True: sum(int(np.prod(leaf.shape)) for leaf in split)}
    numbers[False] = sum(int(np.prod(leaf.shape)) for leaf in leaves) - numbers[True]
    name = "f32" if item == 4 else "bf16"
    found = [
        ("all-gather", name, fsdp, 2 * len(split), 2 * item * numbers[True]),
        ("reduce-scatter", "f32", fsdp, len(split), 4 * numbers[True]),
        ("all-reduce", "f32", data, len(split), 4 * numbers[True] // fsdp),
        ("all-reduce", "f32", mesh.size, len(leaves) - len(split), 4 * numbers[False]),
    ]
    return tuple(
        kinds.Collective(kind, dtype, group, times * count, times * size)
        for kind, dtype, group, count, size in found
        if group > 1 and size
    )
