"""Times the networks of evaluation beside torch-fidelity's, and compares the metrics' values.

    python -m venv peers && peers/bin/pip install -r benchmarks/requirements-evaluation.txt
    python benchmarks/evaluation_networks.py --peer_python peers/bin/python
    python benchmarks/evaluation_networks.py --peer_python peers/bin/python --parts values
    python benchmarks/evaluation_networks.py --accelerator --networks inception-2015,dinov2-vitl14

Both sides read one file of made-up weights of Inception, and work in turn, each a process that may
use all cores (with --accelerator, the accelerator that it finds). Where other programs run beside
it, threads of PyTorch wait for each other by computing, so --one_core compares better. Parts:

- networks: features of a batch of uint8 images, with their front end; of torch-fidelity the
  network alone, of this project all that `Extractor` does. A ratio is of images a second, by wall
  time and by CPU time (what programs beside it take does not count in that one).
- values: whole pipelines from the same images, and to how many digits they agree: minus the
  decimal logarithm of the relative difference.
"""

import json
import math
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from typing import Annotated, Literal

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import contenders
from jaxdiff import cli
from jaxdiff.config import Range
from jaxdiff.errors import UserError

HERE = pathlib.Path(__file__).parent
OURS, THEIRS = "jaxdiff", "torch-fidelity"
SHARED = "inception-2015"  # the network that both have
NETWORKS = (SHARED, "efficientnet-lite0", "sscd", "dinov2-vits14", "dinov2-vitb14", "dinov2-vitl14")
PARTS = ("networks", "values")
LIBRARIES = {
    "FID, pytorch-fid": "pytorch-fid",
    "precision, open ball": "prdc",
    "recall, open ball": "prdc",
    "density": "prdc",
    "coverage": "prdc",
    "Vendi": "vendi-score",
}


def pictures(count, size, cells, seed):
    """Uint8 images [N, size, size, 3] of cells x cells squares of one colour each, with noise."""
    random = np.random.RandomState(seed)
    colours = random.uniform(0, 255, (count, cells, cells, 3))
    at = np.arange(size) * cells // size
    pixels = colours[:, at][:, :, at] + random.normal(0, 8, (count, size, size, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def write_inputs(folder, args):
    """Writes images.npz; returns the processes' settings."""
    sets = {"real": pictures(args.images, args.size, 4, 0)}
    sets["fake"] = pictures(args.images, args.size, 6, 1)
    np.savez(folder / "images.npz", **sets)
    return {
        "networks": list(dict.fromkeys((SHARED, *args.networks))),
        "folder": str(folder),
        "weights": str(folder / f"{SHARED}.pth"),
        "images": str(folder / "images.npz"),
        "batch": min(args.batch, args.images),
        "accelerator": args.accelerator,
    }


def started(folder, args):
    """{name: Contender} that are ready; without a Python for them, no peers."""
    spec = json.dumps(write_inputs(folder, args))
    environment = {} if args.accelerator else {"JAX_PLATFORMS": "cpu"}
    if args.one_core:
        environment = contenders.ONE_THREAD
    core = max(os.sched_getaffinity(0)) if args.one_core else None
    found = {}
    pythons = {OURS: (sys.executable, "evaluation_jaxdiff.py")}
    if args.peer_python:
        pythons[THEIRS] = (args.peer_python, "evaluation_torch.py")
    try:
        for name, (python, script) in pythons.items():
            # One after the other, as the first writes the weights.
            command = [python, str(HERE / script), spec]
            found[name] = contenders.Contender(command, environment, core)
            found[name].start()
    except EOFError:
        end(found)
        raise UserError(
            f"{name} cannot be run with {python}: install what "
            "benchmarks/requirements-evaluation.txt lists for --peer_python."
        ) from None
    return found


def end(found):
    """Ends the contenders."""
    for contender in found.values():
        contender.end()


def timed(found, name, rounds):
    """{contender: [{"wall", "cpu"} of each round]} of a function, after one call of each."""
    for contender in found.values():
        contender.ask("time", name=name, calls=1)
    return contenders.in_turn(found, rounds, lambda each: each.ask("time", name=name, calls=1))


def row(name, times, count):
    """A row of the report: medians of each contender, and ratios of theirs to ours."""
    fields = {"part": "networks", "name": name, "count": count, "rounds": times}
    for clock in ("wall", "cpu"):
        medians = {who: statistics.median(t[clock] for t in each) for who, each in times.items()}
        fields[clock] = medians
        if THEIRS in medians:
            fields[f"{clock}_ratio"] = medians[THEIRS] / medians[OURS]
            each = ([t[clock] for t in times[who]] for who in (THEIRS, OURS))
            fields[f"{clock}_quartiles"] = contenders.ratio(*each)
    return fields


def network_rows(found, args):
    """Rows of the networks; this project alone has all but one."""
    rows = []
    for name in args.networks:
        both = found if name == SHARED else {OURS: found[OURS]}
        rows.append(row(name, timed(both, name, args.rounds), args.batch))
        print(line(rows[-1]), flush=True)
    return rows


def line(row):
    """A row in words."""
    parts = []
    for who, seconds in row["wall"].items():
        rate = f"{row['count'] / seconds:,.2f} images/s"
        parts.append(f"{who} {rate} ({row['cpu'][who]:,.2f} s of CPU time)")
    for clock in ("wall", "cpu"):
        if f"{clock}_ratio" in row:
            _, low, high = row[f"{clock}_quartiles"]
            parts.append(f"{row[f'{clock}_ratio']:.3f} ({low:.3f} to {high:.3f}) by {clock}")
    return f"{row['name']}: {'; '.join(parts)}"


def digits(value, other):
    """To how many decimal digits two values agree; infinite if they are equal."""
    if value == other:
        return math.inf
    return -math.log10(abs(value - other) / max(abs(value), abs(other)))


def value_rows(found):
    """Rows of the values of whole pipelines."""
    values = {name: contender.ask("values") for name, contender in found.items()}
    return [
        {
            "part": "values",
            "name": name,
            "library": LIBRARIES.get(name, THEIRS),
            "ours": value,
            "theirs": values[THEIRS][name],
            "digits": digits(value, values[THEIRS][name]),
        }
        for name, value in values[OURS].items()
    ]


def value_table(rows):
    """Markdown of the values."""
    lines = ["| value | of | theirs | ours | digits |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        agree = "equal" if math.isinf(row["digits"]) else f"{row['digits']:.1f}"
        cells = (row["name"], row["library"], f"{row['theirs']:.9g}", f"{row['ours']:.9g}", agree)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser, positive = cli.Parser(__doc__), Annotated[int, Range(1, 1_000_000)]
    cli.add_flag(parser, "peer_python", help="Python that has torch; default: jaxdiff alone")
    cli.add_flag(parser, "parts", tuple[Literal[PARTS], ...], PARTS, "What is done")
    cli.add_flag(parser, "networks", tuple[Literal[NETWORKS], ...], NETWORKS[:4], "Of the first")
    cli.add_flag(
        parser, "rounds", Annotated[int, Range(2, 1000)], 7, "How often networks are timed"
    )
    cli.add_flag(parser, "batch", positive, 32, "Images at once")
    cli.add_flag(parser, "images", positive, 64, "Of each set")
    cli.add_flag(parser, "size", positive, 64, "Height and width of the images")
    cli.add_flag(parser, "one_core", bool, False, "Run each with one thread, on the last core")
    cli.add_flag(parser, "accelerator", bool, False, "Run on the accelerator that is found")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    with tempfile.TemporaryDirectory() as folder:
        found = started(pathlib.Path(folder), args)
        try:
            cores = len(os.sched_getaffinity(0))
            cores = 1 if args.one_core else cores
            print(f"{platform.processor() or platform.machine()}, {cores} cores")
            for name, contender in found.items():
                print(f"{name}: {contender.ready['version']}, {contender.ready['device']}")
            rows = network_rows(found, args) if "networks" in args.parts else []
            if "values" in args.parts and THEIRS in found:
                values = value_rows(found)
                print(value_table(values))
                rows += values
        finally:
            end(found)
    if args.json:
        about = {name: contender.ready for name, contender in found.items()}
        text = json.dumps({"about": about, "rows": rows}, indent=2)
        pathlib.Path(args.json).write_text(f"{text}\n")


if __name__ == "__main__":
    main()
