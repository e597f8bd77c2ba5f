"""What training prints in words: one screen at the start, a line once it is compiled, and its end.

In the first process.
"""

import dataclasses
import math
import signal
import sys
import textwrap

import jax

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.memory import device_memory, size_text
from jaxdiff.parallel import processes
from jaxdiff.training.fitting import on_a_device
from jaxdiff.training.space import space
from jaxdiff.training.state import state_bytes

WIDTH, INDENT = 100, 11  # columns
PARTS = 6  # of a network, the largest
UTILIZATION = 0.4  # of the peak, as plans assume
DAY = 86_400


def start(config, run, source, mesh, template, constants):
    """Prints what a run is, what it takes, and how far it is.

    Args:
      config: the RunConfig.
      run: its Run.
      source: the training split.
      mesh: the devices.
      template: a State of shapes with shardings.
      constants: of jaxdiff.training.metrics.
    """
    free = None if files.is_remote(run.folder) else files.room(run.config_file)[0]
    number = max(checkpointer.complete_steps(run.checkpoints), default=0)
    needs = space(config, template)
    rows = {
        "Run": f"{run.folder}, {_progress(config.training, constants, number)}",
        "Network": f"{_settings(config.model)}; {config.training.dtype}",
        "Parameters": _parameters(template.params),
        "Process": _settings(config.diffusion),
        "Training": _training(config.training),
        "Data": _data(config, len(source)),
        "Mesh": _mesh(mesh),
        "Memory": _memory(template),
        "Speed": _speed(constants, number),
        "Disk": _disk(needs, free),
    }
    for name, text in rows.items():
        begin = f"{name:<{INDENT}}"
        print(textwrap.fill(text, WIDTH, initial_indent=begin, subsequent_indent=" " * INDENT))
    sys.stdout.flush()
    if free is not None:
        _warn_of_space(run, needs, free, config.training.snapshot_dtype)


def _settings(settings):
    """The kind of a section, and those of its settings that are not the defaults."""
    return ", ".join([settings.kind, *_changed(settings)])


def _changed(settings):
    return [
        f"{field.name} {_text(value)}"
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) != field.default
    ]


def _text(value):
    if isinstance(value, tuple):
        return " ".join(map(_text, value)) or "none"
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}({', '.join(_changed(value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _progress(training, constants, number):
    if not number:
        return f"begins at step 0 of {training.num_steps:,}"
    done = constants.progress(number)
    return (
        f"continues from step {number:,} of {training.num_steps:,}: {done['images']:,} images, "
        f"{done['epochs']:.4g} epochs"
    )


def _parameters(params):
    counts = {name: count_of(tree) for name, tree in params.items()}
    largest = sorted(counts, key=counts.get, reverse=True)[:PARTS]
    parts = [f"{name} {counts[name]:,}" for name in largest]
    if rest := len(counts) - len(largest):
        others = sum(counts.values()) - sum(counts[name] for name in largest)
        parts.append(f"{rest} other{'s' * (rest > 1)} {others:,}")
    return f"{sum(counts.values()):,}: {', '.join(parts)}"


def count_of(tree):
    """How many numbers a tree of arrays or shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _training(training):
    stated = ("num_steps", "batch_size", "learning_rate", "dtype", "snapshot_dtype")
    rest = [each for each in _changed(training) if not each.startswith(stated)]
    rest = [each for each in rest if "_every " not in each]
    steps = f"{training.num_steps:,} steps of {training.batch_size:,} images"
    return ", ".join([steps, f"learning_rate {training.learning_rate:g}", *rest])


def _data(config, examples):
    data, training = config.data, config.training
    name = getattr(data, "name", "") or getattr(data, "prepare", "") or data.kind
    images = training.num_steps * training.batch_size
    shape = " x ".join(map(str, data.shape))
    return (
        f"{name}: {examples:,} examples of {shape}; the run takes {images:,}, "
        f"{images / examples:.4g} epochs"
    )


def _mesh(mesh):
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    device, count = mesh.devices.flat[0].device_kind, processes.count()
    return f"{axes}: {mesh.size} {device}, in {count} process{'es' * (count > 1)}"


def _memory(template):
    whole, here = state_bytes(template), state_bytes(jax.tree.map(on_a_device, template))
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in here.items())
    total, everywhere = sum(here.values()), sum(whole.values())
    sharded = f"; {size_text(everywhere)} over the axis fsdp" * (everywhere > total)
    return f"state on a device {size_text(total)} of {size_text(device_memory())}: {parts}{sharded}"


def _speed(constants, number):
    if constants.peak is None:
        return "not estimated, as the peak of these devices is not known"
    if constants.flops is None:
        return "not estimated, as the operations of this network cannot be counted"
    training = constants.training
    most = training.batch_size * constants.peak / constants.flops
    rate = UTILIZATION * most
    days = (training.num_steps - number) * training.batch_size / rate / DAY
    return (
        f"{rate:,.0f} images/s expected at {UTILIZATION:.0%} of the peak, {days:.3g} days; "
        f"{constants.flops / training.batch_size / 1e9:,.4g} GFLOP an image, {most:,.0f} images/s "
        "at the peak"
    )


def _disk(needs, free):
    there = "" if free is None else f"; {size_text(free)} are free"
    return (
        f"{size_text(needs.total)} in all: checkpoints of {size_text(needs.checkpoint)}, at most "
        f"{needs.checkpoints} at once, and snapshots of {size_text(needs.snapshot)}, "
        f"{needs.snapshots} in the end{there}"
    )


def _warn_of_space(run, needs, free, dtype):
    """Says so where the disk has no room for what is still to be written."""
    folders = (run.checkpoints, run.snapshots)
    there = sum(
        size or 0
        for folder in folders
        if files.exists(folder)
        for size in files.walk(folder).values()
    )
    if (missing := needs.total - there - free) > 0:
        print(
            f"Warning: the checkpoints and snapshots of this run take {size_text(missing)} more "
            f"than is free at {run.folder}: make room, or raise training.snapshot_every"
            f"{' or set training.snapshot_dtype to bfloat16' * (dtype == 'float32')}.",
            file=sys.stderr,
        )


def compiled(step, seconds):
    """The line about a compiled training step: how long that took, and the memory of a step."""
    text = f"Compiled in {seconds:,.1f} s"
    stats = step.memory_analysis()
    if stats is None:
        return f"{text}."
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    together = held + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    return (
        f"{text}: a step takes {size_text(together)} of a device's memory, "
        f"{size_text(stats.temp_size_in_bytes)} of them beside the state and the batch."
    )


def end(run, number, training, overall, restart, stopped_by):
    """Prints how far training came, and how fast.

    Args:
      run: its Run.
      number: of the last step.
      training: the config's section.
      overall: (steps, seconds, share of them waiting for data) of this program, or None.
      restart: whether it was begun with --restart.
      stopped_by: number of the signal that ended it; None: none.
    """
    pace = ""
    if overall and overall[0]:
        steps, seconds, waiting = overall
        rate = steps * training.batch_size / seconds
        pace = (
            f" ({steps:,} step{'s' * (steps != 1)} in {_duration(seconds)}: {rate:,.1f} images/s, "
            f"{waiting:.0%} of the time waiting for data)"
        )
    if number < training.num_steps:
        command = "the same command without --restart" if restart else "the same command"
        name = signal.Signals(stopped_by).name
        print(
            f"Stopped by {name} and saved at step {number}{pace}: {command} continues from there."
        )
    else:
        print(f"Trained to step {number}{pace}: {run.folder}")


def _duration(seconds):
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{seconds:.1f} s"
