"""Trainings one after another in the same processes, as starting these takes longest.

python -m tests.training.trainings PLAN.json     a list of {"workdir": ..., "config": overrides of
                                                 linear.config, "trap": a name in TRAPS}

Prints a line for each: what it raised, or nothing. A mistake that one process alone notices ends
all of them.
"""

import contextlib
import errno
import json
import pathlib
import sys
from unittest import mock

from jaxdiff import cli
from tests.training import linear

MODELS = {"classifier": lambda: linear.LinearClassifier(label=linear.Label(linear.CLASSES))}


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("plan")
    cli.run(_run, parser)


def _run(args):
    from jaxdiff.training.interrupt import Interrupt

    with Interrupt(ends_program=True) as interrupt:
        cli.start_jax()
        from jaxdiff.errors import UserError
        from jaxdiff.training.loop import train

        for case in json.loads(pathlib.Path(args.plan).read_text()):
            problem = ""
            with trap(case.get("trap")):
                try:
                    train(config(case), case["workdir"], interrupt)
                except UserError as error:
                    if case.get("ends"):
                        raise
                    problem = str(error)
            print(f"\nCASE {problem}", flush=True)
    sys.exit(interrupt.status)


def config(case):
    """The RunConfig of a case."""
    from jaxdiff.config import replaced

    if case.get("name") == "toy":
        from configs import toy

        return replaced(toy.get_config(), case["config"])
    if case.get("name") == "evaluation":
        from tests.training import test_sample_metrics

        long = test_sample_metrics.config(case["features"], {"num_samples": 10_000})
        return replaced(long, case["config"])
    overrides = dict(case["config"])
    if model := overrides.pop("model", None):
        overrides["model"] = MODELS[model]()
    return linear.config(**{name.replace(".", "__"): value for name, value in overrides.items()})


@contextlib.contextmanager
def trap(name):
    """What is otherwise in one process alone, or in all."""
    import jax

    number, what = name.split(":") if name else (None, None)
    with contextlib.ExitStack() as stack:
        if name and number in ("all", str(jax.process_index())):
            stack.enter_context(TRAPS[what]())
        yield


def _held_out():
    """A file of the held-out split that this host cannot read."""
    from jaxdiff.data.source import Arrays
    from jaxdiff.errors import UserError
    from jaxdiff.training import held_out

    def fetch(*_):
        raise UserError("test.array_record is missing or corrupt: restore it.")

    def measure(self, *args):
        with mock.patch.object(Arrays, "fetch", fetch):
            return plain(self, *args)

    plain = held_out.HeldOut.measure
    return mock.patch.object(held_out.HeldOut, "measure", measure)


def _data():
    """An example that this host cannot read, from the fifth batch on."""
    from jaxdiff.errors import UserError
    from jaxdiff.training import loop

    plain = loop.batches

    def batches(*args):
        for number, batch in enumerate(plain(*args)):
            if number == 4:
                raise UserError("train.array_record is missing or corrupt: restore it.")
            yield batch

    return mock.patch.object(loop, "batches", batches)


def _evaluation():
    """An evaluation that fails where no other process notices."""
    from jaxdiff.training.previews import Preview

    def fail(*_):
        raise MemoryError

    return mock.patch.object(Preview, "__call__", fail)


def _checkpoint():
    """The newest checkpoint, of which this host cannot read an array."""
    from jaxdiff.checkpoints import checkpointer

    plain = checkpointer.ocp.PyTreeCheckpointHandler.restore

    def restore(self, path, *args, **kwargs):
        if path.parent.name == "4" and path.name == "params":
            raise OSError(errno.EIO, "Input/output error")
        return plain(self, path, *args, **kwargs)

    return mock.patch.object(checkpointer.ocp.PyTreeCheckpointHandler, "restore", restore)


def _late():
    """A network disk that does not show this host the newest step yet."""
    from jaxdiff.checkpoints import checkpointer

    plain = checkpointer.complete_steps
    return mock.patch.object(checkpointer, "complete_steps", lambda folder: plain(folder)[:-1])


def _preview():
    """A disk that is full when the preview is written."""
    return _full("previews")


def _tensorboard():
    """A disk that is full when scalars are written, from the second time on."""
    from tensorboardX.event_file_writer import EventsWriter

    plain, count = EventsWriter.flush, iter(range(100))

    def flush(self):
        if next(count) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self)

    return mock.patch.object(EventsWriter, "flush", flush)


def _full(folder):
    from jaxdiff import files

    plain = files._temporary

    def temporary(path):
        if path.parent.name == folder:
            raise files.WriteError(path, "No space left on device")
        return plain(path)

    return mock.patch.object(files, "_temporary", temporary)


def _writes():
    """No file of what all share may be written, moved or removed here, but shards of arrays."""
    import os

    from jaxdiff import files

    def refuse(*args, **_):
        raise AssertionError(f"process 1 writes {args}")

    stack = contextlib.ExitStack()
    for owner, name in (
        (files, "_temporary"),
        (files, "make_folder"),
        (files, "remove"),
        (files, "remove_tree"),
        (files, "move"),
        (os, "rename"),
        (os, "replace"),
        (os, "link"),
    ):
        stack.enter_context(mock.patch.object(owner, name, refuse))
    return stack


def _order():
    """Devices of the processes in turn, as a mesh of TPUs may have them."""
    from jaxdiff.parallel import mesh

    plain = mesh.arrange

    def arrange(devices, fsdp):
        return plain([*devices[::2], *devices[1::2]], fsdp)

    return mock.patch.object(mesh, "arrange", arrange)


TRAPS = {
    "order": _order,
    "held-out": _held_out,
    "data": _data,
    "evaluation": _evaluation,
    "checkpoint": _checkpoint,
    "late": _late,
    "preview": _preview,
    "tensorboard": _tensorboard,
    "writes": _writes,
}

if __name__ == "__main__":
    main()
