"""Times the metrics of features beside torch-fidelity's, and their memory.

    python -m venv peers && peers/bin/pip install torch-fidelity
    python benchmarks/evaluation_metrics.py --peer_python peers/bin/python
    python benchmarks/evaluation_metrics.py --peer_python peers/bin/python --threads 1 --rounds 3
    python benchmarks/evaluation_metrics.py --metrics neighbours --rows 12000 --neighbours 4000

Features are synthetic, float32, [rows, 2048]. The metrics: `fd`, the moments of two sets of `rows`,
their decomposition and their Frechet distance; `kid`, 100 subsets of 1000 rows of the two;
`neighbours`, precision and recall of `rows` samples against `neighbours` reference images. Beside
the latter, in the same rounds: the bare matrix products of all pairs of rows, by the same library
in the same blocks. torch-fidelity computes KID in float32; it is timed on features in float64 too.

Every measurement is of a new process, which reads the features, and whose largest memory it is;
each in its turn. CPU times are those of all threads. On a machine that others use, only ratios of
CPU times of one run mean something. A ratio is the median over the rounds.
"""

import json
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

SCRIPT = pathlib.Path(__file__).parent / "peer_metrics.py"
OURS, PEER = "jaxdiff", "torch-fidelity"
# What each metric's values are to agree to, as a share of the first: the peer's float32.
TOLERANCE = {"fd": 1e-5, "kid": 0.05, "neighbours": 1e-4}
RUNS = {
    "fd": ((OURS, "fd"), (PEER, "fd")),
    "kid": ((OURS, "kid"), (PEER, "kid"), (PEER, "kid in float64")),
    "neighbours": ((OURS, "neighbours"), (OURS, "products"), (PEER, "neighbours")),
}
HIDDEN, PART = 64, 2000


def write_features(file, count, dimension, seed, shift=0.0):
    """Rows |A z + b e + c| of normal z [64] and e [D]: not of one scale, and without negatives."""
    mixture = np.random.default_rng(99).standard_normal((HIDDEN, dimension), np.float32)
    random = np.random.default_rng(seed)
    rows = np.lib.format.open_memmap(file, "w+", np.float32, (count, dimension))
    for start in range(0, count, PART):
        part = rows[start : start + PART]
        part[:] = 0.05 * random.standard_normal((len(part), HIDDEN), np.float32) @ mixture
        part += 0.3 * random.standard_normal(part.shape, np.float32) + np.float32(0.2 + shift)
        np.abs(part, out=part)
    rows.flush()
    return str(file)


def measured(contender, metric, files, args):
    """The answer of a new process."""
    python = sys.executable if contender == OURS else args.peer_python
    spec = {"contender": contender, "threads": args.threads}
    environment = contenders.ONE_THREAD if args.threads == 1 else {"JAX_PLATFORMS": "cpu"}
    core = max(os.sched_getaffinity(0)) if args.threads == 1 else None
    process = contenders.Contender([python, str(SCRIPT), json.dumps(spec)], environment, core)
    try:
        ready = process.start()
        return {**ready, **process.ask("measure", metric=metric, **files)}
    except EOFError:
        raise UserError(
            f"{contender} did not measure {metric} with {python}, which needs enough memory, and "
            "torch-fidelity in the Python of --peer_python: install it there."
        ) from None
    finally:
        process.end()


def check_same(metric, rounds):
    """Raises UserError unless the values are the peer's."""
    ours, theirs = (rounds[contender, metric][0]["values"] for contender in (OURS, PEER))
    if not np.allclose(ours, theirs, rtol=TOLERANCE[metric], atol=TOLERANCE[metric] * 1e-3):
        raise UserError(f"{metric} is {ours} of {OURS} and {theirs} of {PEER}: they should agree.")


def run(metric, files, args):
    """Rows of the table, one for each contender."""
    runs = [r for r in RUNS[metric] if r[0] == OURS or args.peer_python]
    rounds = {r: [] for r in runs}
    for turn in range(args.rounds):
        for contender, what in runs[turn % len(runs) :] + runs[: turn % len(runs)]:
            rounds[contender, what].append(measured(contender, what, files, args))
            print(
                f"{contender}, {what}: {rounds[contender, what][-1]}", file=sys.stderr, flush=True
            )
    if args.peer_python:
        check_same(metric, rounds)
    ours = [each["cpu_s"] for each in rounds[OURS, metric]]
    rows = []
    for (contender, what), found in rounds.items():
        row = {"metric": metric, "contender": contender, "what": what, "rounds": found}
        row |= {k: statistics.median(e[k] for e in found) for k in ("wall_s", "cpu_s", "peak_gb")}
        row["ours"] = statistics.median(a / b["cpu_s"] for a, b in zip(ours, found, strict=True))
        rows.append(row)
    return rows


def table(rows):
    """Markdown."""
    lines = [
        "| metric | | wall s | CPU s | peak GB | jaxdiff's CPU time, of this | values |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = row["contender"] + ("" if row["what"] == row["metric"] else f", {row['what']}")
        values = ", ".join(f"{value:.6g}" for value in row["rounds"][0]["values"])
        ours = "" if name == OURS else f"{row['ours']:.2f}"
        times = f"{row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['peak_gb']:.2f}"
        lines.append(f"| {row['metric']} | {name} | {times} | {ours} | {values} |")
    return "\n".join(lines)


def main():
    parser, positive = cli.Parser(__doc__), Annotated[int, Range(1000, 10_000_000)]
    cli.add_flag(parser, "peer_python", help="Python that has torch-fidelity; default: ours alone")
    cli.add_flag(parser, "metrics", tuple[Literal[tuple(RUNS)], ...], tuple(RUNS), "To time")
    cli.add_flag(parser, "rows", positive, 50_000, "Of each set")
    cli.add_flag(parser, "neighbours", positive, 10_000, "Reference rows of `neighbours`")
    cli.add_flag(parser, "dimension", Annotated[int, Range(1, 100_000)], 2048, "Of the features")
    cli.add_flag(parser, "rounds", Annotated[int, Range(1, 1000)], 1, "How often each is timed")
    cli.add_flag(parser, "threads", Annotated[int, Range(0, 1)], 0, "1: one core; 0: all")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, d = pathlib.Path(name), args.dimension
        fake = write_features(folder / "fake.npy", args.rows, d, 1, 0.02)
        real = write_features(folder / "real.npy", args.rows, d, 2)
        few = write_features(folder / "few.npy", args.neighbours, d, 3)
        for metric in args.metrics:
            files = {"fake": fake, "real": few if metric == "neighbours" else real}
            rows += run(metric, files, args)
    versions = sorted({each["version"] for row in rows for each in row["rounds"]})
    cores = 1 if args.threads == 1 else len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, cores: {cores}; {', '.join(versions)}")
    print(table(rows))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
