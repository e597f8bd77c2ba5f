"""What a network costs: compiling, time, arithmetic and memory, with and without remat.

    python benchmarks/network.py --config configs/digits.py
    python benchmarks/network.py --config configs/adm/imagenet64.py \
        --config.training.dtype=bfloat16 --batch_sizes 64,256 --json adm64.json

Measures the jitted training step of a config and its network's forward pass on one device, with
images made up on the spot: no dataset is read. `--abstract` works from shapes, so that neither
memory nor an accelerator is needed, and says what it can: operations and kept bytes, and with
`--compile` compile times and peak memory. docs/benchmarks.md explains the columns.
"""

import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxdiff import cli, factory
from jaxdiff import config as config_lib
from jaxdiff.errors import UserError
from jaxdiff.training.ema import profiles
from jaxdiff.training.objective import of_config
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import init_state
from jaxdiff.training.step import make_step, zero_sums

CONFIG = config_flags.DEFINE_config_file("config", help_string="The config of a run.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", [], "Sizes to measure; default: the config's.")
ABSTRACT = flags.DEFINE_bool("abstract", False, "Work from shapes: run and allocate nothing.")
COMPILE = flags.DEFINE_bool("compile", False, "With --abstract: compile too.")
ROUNDS = flags.DEFINE_integer("rounds", 20, "How often each is timed.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "File to write the measurements to.")

WARM_UP = 3

# Dense bfloat16 operations a second, by the start of the device's name, after the data sheets.
# Float32 has no such number: what it is computed with depends on jax_default_matmul_precision.
PEAK_BFLOAT16 = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}

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


def objective_of(config):
    """(network, process, objective) of a run."""
    network, process = factory.network(config), factory.process(config)
    return network, process, of_config(config, network, process)


def examples_of(config, process, size):
    """What the objective takes, all of it made up; a pure function, to be jitted or traced."""
    low_res = config.data.low_res_size
    shape = factory.sample_shape(config)
    key = jax.random.key(0)
    examples = {
        "x0": jax.random.uniform(key, (size, *shape), minval=-1.0),
        "label": jnp.zeros(size, jnp.int32),
        "draws": process.draw(key, (size, *shape)),
        "dropout": jax.random.split(key, size),
    }
    if low_res:
        examples["low_res"] = jnp.zeros((size, low_res, low_res, shape[-1]))
    return examples


def kept_bytes(config):
    """Bytes that live between the forward and the backward pass of one part of a batch."""
    network, process, objective = objective_of(config)
    size = config.training.batch_size // config.training.accumulate

    def backward(params, examples):
        return jax.vjp(lambda p: objective.losses(p, examples)[0]["loss"].mean(), params)[1]

    examples = jax.eval_shape(lambda: examples_of(config, process, size))
    leaves = jax.tree.leaves(jax.eval_shape(backward, network.shapes, examples))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def step_of(config, values):
    """(jitted training step, its arguments); the arguments are shapes unless `values`."""
    network, process, objective = objective_of(config)
    optimizer = make_optimizer(config.training)

    def arguments():
        state = init_state(network, optimizer, profiles(config.training), jax.random.key(0))
        shape = (config.training.batch_size, *factory.sample_shape(config))
        image = jax.random.randint(jax.random.key(0), shape, 0, 256).astype(jnp.uint8)
        batch = {"image": image, "label": jnp.zeros(shape[0], jnp.int32)}
        return state, zero_sums(objective.terms), batch

    step = jax.jit(make_step(objective, process, optimizer, config), donate_argnums=0)
    return step, (jax.jit(arguments)() if values else jax.eval_shape(arguments))


def forward_of(config, values):
    """(jitted forward pass, its arguments), labels and all, without dropout."""
    network, process, _ = objective_of(config)

    def forward(params, x):
        levels = jnp.zeros(x["label"].shape)
        if config.model.kind == "classifier":
            return network.apply(params, x["x0"], levels)
        embedding = network.embed(params, x["label"])
        return network.apply(params, x["x0"], levels, embedding, low_res=x.get("low_res"))

    def arguments():
        examples = examples_of(config, process, config.training.batch_size)
        examples = {k: v for k, v in examples.items() if k in ("x0", "label", "low_res")}
        return network.init(jax.random.key(0)), examples

    return jax.jit(forward), (jax.jit(arguments)() if values else jax.eval_shape(arguments))


def flops_of(make, config):
    """Operations of a program whose config asks for neither remat nor parts, or None.

    XLA's estimate for the program as written: the compiler counts no operations of a library it
    calls, and one turn of a loop.
    """
    config = with_training(config, remat=False, accumulate=1)
    function, arguments = make(config, values=False)
    cost = function.lower(*arguments).cost_analysis()
    return cost and cost.get("flops")


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


def median_time(run):
    """Median seconds of a call."""
    times = []
    for _ in range(WARM_UP + ROUNDS.value):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def time_step(step, *arguments):
    """Median seconds of a step; donates the state of the arguments."""
    *held, batch = arguments

    def run():
        held[:] = step(*held, batch)
        return held

    return median_time(run)


def measure(config, flops):
    """The fields of one row; flops are those of them that remat does not change."""
    row = {
        "batch_size": config.training.batch_size,
        "remat": config.training.remat,
        "kept_bytes": kept_bytes(config),
        **flops,
    }
    if ABSTRACT.value and not COMPILE.value:
        return row
    row.update(measure_forward(config))
    row.update(measure_step(config))
    if "step_s" in row:
        row["images_per_s"] = row["batch_size"] / row["step_s"]
        peak = peak_flops(config.training.dtype)
        if peak and row["step_flops"]:
            row["utilisation"] = row["step_flops"] / row["step_s"] / peak
    return row


def measure_forward(config):
    """What there is to measure of the forward pass."""
    forward, arguments = forward_of(config, not ABSTRACT.value)
    compiled, seconds = compiled_of(forward, arguments)
    row = {"forward_compile_s": seconds}
    if not ABSTRACT.value:
        row["forward_s"] = median_time(lambda: compiled(*arguments))
    return row


def measure_step(config):
    """What there is to measure of the training step."""
    step, arguments = step_of(config, not ABSTRACT.value)
    compiled, seconds = compiled_of(step, arguments)
    row = {"step_compile_s": seconds, "peak_bytes": peak_bytes(compiled)}
    if not ABSTRACT.value:
        row["step_s"] = time_step(compiled, *arguments)
    return row


def peak_flops(dtype):
    """The device's dense peak, or None where it is not known."""
    if dtype != "bfloat16":
        return None
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in PEAK_BFLOAT16.items() if kind.startswith(name)), None)


def with_training(config, **fields):
    """A copy of the config with other values in its section `training`."""
    changed = config.copy_and_resolve_references()
    changed.training.update(fields)
    return changed


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


def batch_sizes(config):
    try:
        sizes = [int(size) for size in BATCH_SIZES.value] or [config.training.batch_size]
    except ValueError:
        raise UserError("--batch_sizes holds what is no integer: give some, as 64,256.") from None
    if bad := [size for size in sizes if size < 1 or size % config.training.accumulate]:
        raise UserError(
            f"--batch_sizes holds {bad[0]}: it must be a multiple of training.accumulate, "
            f"{config.training.accumulate}."
        )
    return sizes


def main():
    config = cli.require_config(CONFIG)
    config_lib.validate(config)
    # What a cached program took to compile is not the question.
    jax.config.update("jax_enable_compilation_cache", False)
    sizes = batch_sizes(config)
    parameters = sum(
        np.prod(leaf.shape) for leaf in jax.tree.leaves(factory.network(config).shapes)
    )
    device = jax.devices()[0].device_kind
    print(f"{parameters:,.0f} parameters, {config.training.dtype}, {device}, jax {jax.__version__}")
    rows = []
    for size in sizes:
        sized = with_training(config, batch_size=size)
        flops = {
            "forward_flops": flops_of(forward_of, sized),
            "step_flops": flops_of(step_of, sized),
        }
        for remat in (False, True):
            rows.append(measure(with_training(sized, remat=remat), flops))
    print(table(rows))
    if JSON.value:
        result = {
            "jax": jax.__version__,
            "device": device,
            "abstract": ABSTRACT.value,
            "config": config.to_dict(),
            "rows": rows,
        }
        pathlib.Path(JSON.value).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
