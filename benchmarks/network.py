"""What a network costs: compiling, time, arithmetic and memory, with and without remat.

    python benchmarks/network.py --config configs/digits.py
    python benchmarks/network.py --config configs/adm/imagenet64.py \
        --config.training.dtype=bfloat16 --batch_sizes 64,256 --json adm64.json

Measures the jitted training step of a config and its network's forward pass on one device, with
images made up on the spot: no dataset is read. `--abstract` works from shapes, so that neither
memory nor an accelerator is needed, and says what it can: operations and kept bytes, and with
`--compile` compile times and peak memory. docs/benchmarks.md explains the columns.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
import time
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import cli
from jaxdiff.chips import peak_flops
from jaxdiff.config import Range, replaced, to_dict
from jaxdiff.counts import flops_by_kind
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import from_global, make_mesh
from jaxdiff.plan.plans import here
from jaxdiff.training.compiled import (
    condition_shapes,
    jitted_step,
    state_template,
    step_arguments,
)
from jaxdiff.training.task import Task

WARM_UP = 3

# Of the printed table: field, heading, what it is divided by, format.
COLUMNS = (
    ("batch_size", "batch", 1, "d"),
    ("remat", "remat", 1, ""),
    ("kept_bytes", "kept MiB", 2**20, ",.1f"),
    ("peak_bytes", "peak MiB", 2**20, ",.1f"),
    ("forward_flops", "forward GFLOP", 1e9, ",.2f"),
    ("step_flops", "step GFLOP", 1e9, ",.2f"),
    ("forward_compile_s", "forward compile s", 1, ".1f"),
    ("step_compile_s", "step compile s", 1, ".1f"),
    ("forward_s", "forward ms", 1e-3, ",.1f"),
    ("step_s", "step ms", 1e-3, ",.1f"),
    ("images_per_s", "images/s", 1, ",.1f"),
    ("utilisation", "MFU %", 1e-2, ".1f"),
)


def zeros(shapes):
    """NumPy zeros of a tree of shapes."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def made_up_params(shapes):
    """Parameters as NumPy arrays, drawn there to save the compilation of a program that does.

    They are not 0, as some devices are faster at that.
    """
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.02 * rng.standard_normal(leaf.shape, np.float32), shapes)


def examples_of(task, size):
    """What the objective takes, all of it made up; a pure function, to be jitted or traced."""
    shape, key = (size, *task.network.signature.shape), jax.random.key(0)
    dropped = {"drop": jnp.zeros(size, bool)} if task.config.diffusion.condition_dropout else {}
    return {
        "x0": jax.random.uniform(key, shape, minval=-1.0),
        "cond": zeros(condition_shapes(task.config, size)),
        **dropped,
        "draws": task.process.draw(key, shape),
        "dropout": jax.random.split(key, size),
    }


def kept_bytes(config):
    """Bytes that live between the forward and the backward pass of one part of a batch."""
    task = Task.of(config, one_device())
    size = config.training.batch_size // config.training.accumulate

    def backward(params, examples):
        return jax.vjp(lambda p: task.objective.losses(p, examples)[0]["loss"].mean(), params)[1]

    examples = jax.eval_shape(lambda: examples_of(task, size))
    leaves = jax.tree.leaves(jax.eval_shape(backward, task.network.shapes, examples))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def one_device():
    """A mesh of the first device."""
    return make_mesh(devices=jax.devices()[:1])


def step_of(config, values, mesh=None):
    """(jitted training step, its arguments), on a mesh or one device.

    The arguments are shapes unless `values`, and sharded either way.
    """
    mesh = one_device() if mesh is None else mesh
    task = Task.of(config, mesh)
    template = state_template(task, mesh)
    step, shapes = jitted_step(task, template, mesh), step_arguments(task, template, mesh)

    if not values:
        return step, shapes
    state, sums, batch = zeros(shapes)
    state = dataclasses.replace(state, params=made_up_params(template.params))
    batch["x"] = np.random.default_rng(0).integers(0, 256, batch["x"].shape, np.uint8)
    return step, jax.tree.map(
        lambda array, shape: from_global(array, shape.sharding), (state, sums, batch), shapes
    )


def forward_of(config, values, mesh=None):
    """(jitted forward pass, its arguments), conditions and all, without dropout."""
    task = Task.of(config, one_device() if mesh is None else mesh)
    network = task.network

    def forward(params, x, cond):
        time = jnp.zeros(x.shape[0])
        if config.is_classifier:
            return network.apply(params, x, time)
        return network.apply(params, x, time, network.embed(params, cond))

    def examples():
        made = examples_of(task, config.training.batch_size)
        return made["x0"], made["cond"]

    if not values:
        return jax.jit(forward), (network.shapes, *jax.eval_shape(examples))
    return jax.jit(forward), (jax.device_put(made_up_params(network.shapes)), *jax.jit(examples)())


def flops_of(make, config):
    """Operations of the products of a program, without what remat computes again.

    They are those of the program for a CPU, which computes attention as it is defined.
    """
    plain = with_training(config, remat=False, accumulate=1)
    function, arguments = make(plain, values=False, mesh=here())
    return sum(flops_by_kind(function.trace(*arguments).jaxpr).values())


def compiled_of(function, arguments):
    """(compiled program, seconds that tracing and compiling took)."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def peak_bytes(compiled):
    """Bytes of a program's arguments, results and intermediates together, or None."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def median_time(run, rounds):
    """Median seconds of a call."""
    times = []
    for _ in range(WARM_UP + rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def time_step(step, rounds, *arguments):
    """Median seconds of a step; donates the state of the arguments."""
    *held, batch = arguments

    def run():
        held[:] = step(*held, batch)
        return held

    return median_time(run, rounds)


def measure(config, flops, args):
    """The fields of one row; flops are those of them that remat does not change."""
    row = {
        "batch_size": config.training.batch_size,
        "remat": config.training.remat,
        "kept_bytes": kept_bytes(config),
        **flops,
    }
    if args.abstract and not args.compile:
        return row
    row.update(measure_forward(config, args))
    row.update(measure_step(config, args))
    if "step_s" in row:
        row["images_per_s"] = row["batch_size"] / row["step_s"]
        row["utilisation"] = utilisation(row["step_flops"], row["step_s"], config)
    return row


def measure_forward(config, args):
    """What there is to measure of the forward pass."""
    forward, arguments = forward_of(config, not args.abstract)
    compiled, seconds = compiled_of(forward, arguments)
    row = {"forward_compile_s": seconds}
    if not args.abstract:
        row["forward_s"] = median_time(lambda: compiled(*arguments), args.rounds)
    return row


def measure_step(config, args):
    """What there is to measure of the training step."""
    step, arguments = step_of(config, not args.abstract)
    compiled, seconds = compiled_of(step, arguments)
    row = {"step_compile_s": seconds, "peak_bytes": peak_bytes(compiled)}
    if not args.abstract:
        row["step_s"] = time_step(compiled, args.rounds, *arguments)
    return row


def utilisation(flops, seconds, config):
    """The share of the device's dense bfloat16 peak that is used; None where it is not known."""
    # Float32 has no such number: what computes it depends on jax_default_matmul_precision.
    peak = peak_flops(jax.devices()[0].device_kind)
    return flops / seconds / peak if peak and config.training.dtype == "bfloat16" else None


def with_training(config, **fields):
    """The config with other values in its section `training`."""
    return replaced(config, {f"training.{name}": value for name, value in fields.items()})


def table(rows):
    """Markdown of the columns that hold something."""
    columns = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    lines = [[heading for _, heading, _, _ in columns], ["---"] * len(columns)]
    for row in rows:
        lines.append([_cell(row.get(name), unit, form) for name, _, unit, form in columns])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value, unit, form):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value if unit == 1 else value / unit, form)


def batch_sizes(config, sizes):
    """The sizes to measure; UserError for one that cannot be cut into the config's parts."""
    parts = config.training.accumulate
    if wrong := [size for size in sizes if size % parts]:
        raise UserError(
            f"--batch_sizes has {wrong[0]}: it must be a multiple of training.accumulate {parts}."
        )
    return sizes or (config.training.batch_size,)


def main():
    parser, positive = cli.Parser(__doc__), Annotated[int, Range(1, 2**20)]
    cli.add_config(parser, required=True)
    cli.add_flag(parser, "batch_sizes", tuple[positive, ...], (), "To measure; default: one")
    cli.add_flag(parser, "abstract", bool, False, "Work from shapes: run and allocate nothing")
    cli.add_flag(parser, "compile", bool, False, "With --abstract: compile too")
    cli.add_flag(parser, "rounds", positive, 20, "How often each is timed")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    config = args.config
    # What a cached program took to compile is not the question.
    jax.config.update("jax_enable_compilation_cache", False)
    shapes = jax.tree.leaves(Task.of(config).network.shapes)
    parameters = sum(np.prod(leaf.shape) for leaf in shapes)
    device = jax.devices()[0].device_kind
    print(f"{parameters:,.0f} parameters, {config.training.dtype}, {device}, jax {jax.__version__}")
    rows = []
    for size in batch_sizes(config, args.batch_sizes):
        sized = with_training(config, batch_size=size)
        flops = {
            "forward_flops": flops_of(forward_of, sized),
            "step_flops": flops_of(step_of, sized),
        }
        for remat in (False, True):
            rows.append(measure(with_training(sized, remat=remat), flops, args))
    print(table(rows))
    if args.json:
        result = {
            "jax": jax.__version__,
            "device": device,
            "abstract": args.abstract,
            "config": to_dict(config),
            "rows": rows,
        }
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
