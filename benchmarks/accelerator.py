"""What training and sampling cost on one accelerator, in less than nine minutes.

    python benchmarks/accelerator.py --json accelerator.json
    python benchmarks/accelerator.py --json accelerator.json --guided_diffusion guided-diffusion \
        --peer_python peers/bin/python
    python benchmarks/accelerator.py --small --minutes 5

Rows, the most important first; all with made-up images and parameters, in bfloat16:

- a training step of configs/adm/imagenet64.py, batch 256 and 64, with and without remat; in as few
  parts as the memory allows (`training.accumulate`);
- a batch of 64 samples of it in 250 DDPM steps, guided by configs/adm/classifier64.py;
- a batch of 64 samples of configs/imagenet64_edm.py in 32 Heun steps, guided by its guide. Steps
  are equal, so some are timed, and multiplied: Heun's last counts as a half;
- with --guided_diffusion, guided-diffusion's own training step of the same network and batch 64, in
  its float16 as it is, and compiled by torch.compile in bfloat16 (benchmarks/peer_torch.py).

Programs are compiled at once in several threads, and measured when all are, or when two thirds of
the time are over. Compiled programs are kept, so a second run measures what the first had no time
for; it shows how long it took to read them as the time to compile. --json is written after each
row, and names what was not measured.

MFU: operations of the products of the network as it is defined, without what remat computes again,
over the time, as a share of the dense bfloat16 peak. Memory: of arguments, results and temporaries
of the program, as compiled; of PyTorch, the most that tensors took.
"""

import json
import os
import pathlib
import sys
import threading
import time
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import contenders
from jaxdiff import cli
from jaxdiff.config import Range

HERE = pathlib.Path(__file__).parent
COMPILING = 2 / 3  # of the time
PEERS = 100  # seconds that are left for each of PyTorch's rows
RESERVE = 5  # seconds, to end in time
ROWS = (
    {"name": "training, batch 256, remat", "batch_size": 256, "remat": True},
    {"name": "training, batch 64", "batch_size": 64, "remat": False},
    {
        "name": "classifier guidance, 250 steps",
        "batch_size": 64,
        "guide": "classifier",
        "num_steps": 250,
    },
    {"name": "autoguidance, 32 steps", "batch_size": 64, "guide": "weaker", "num_steps": 32},
    {"name": "training, batch 64, remat", "batch_size": 64, "remat": True},
    {"name": "training, batch 256", "batch_size": 256, "remat": False},
)
PEER_ROWS = (
    {"name": "guided-diffusion, float16", "precision": "float16", "compiled": False},
    {"name": "guided-diffusion, compiled, bfloat16", "precision": "bfloat16", "compiled": True},
)
PEER_BATCH = 64
# configs/adm/imagenet64.py in the words of guided-diffusion, and as small as SMALL.
OPTIONS = {
    "image_size": 64,
    "in_channels": 3,
    "model_channels": 192,
    "out_channels": 6,
    "num_res_blocks": 3,
    "attention_resolutions": [2, 4, 8],
    "channel_mult": [1, 2, 3, 4],
    "dropout": 0.1,
    "num_classes": 1000,
    "num_head_channels": 64,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
    "use_new_attention_order": True,
}
SMALL_OPTIONS = {
    **OPTIONS,
    "image_size": 8,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_head_channels": 16,
}
SHRINK = 16  # of a batch of a rehearsal
COLUMNS = (
    ("batch_size", "batch", 1, "d"),
    ("parts", "parts", 1, "d"),
    ("seconds", "seconds", 1, ",.3f"),
    ("step_s", "a sampling step, ms", 1e-3, ",.1f"),
    ("images_per_s", "images/s", 1, ",.1f"),
    ("utilisation", "MFU %", 1e-2, ".1f"),
    ("bytes", "GiB", 2**30, ",.1f"),
    ("compile_s", "compile s", 1, ",.0f"),
)


def cell(value, unit, form):
    """A number of the table."""
    return "" if value is None else format(value if unit == 1 else value / unit, form)


class Report:
    """Rows as they are measured, written to a file after each.

    Arguments:
      rows: all that are to be measured.
      args: the flags.
    """

    def __init__(self, rows, args):
        self._start, self._args = time.perf_counter(), args
        self.about, self._rows = {}, {row["name"]: row for row in rows}
        self._found = {}

    def left(self):
        """Seconds of the time that are left."""
        return 60 * self._args.minutes - RESERVE - (time.perf_counter() - self._start)

    def add(self, name, fields):
        """Adds what was measured of a row, prints it, and writes the file."""
        self._found[name] = {**self._rows[name], **fields}
        print(f"{name}: {fields.get('error') or format(fields['seconds'], '.3f') + ' s'}")
        self.write()

    def write(self):
        """Writes the file, if there is to be one."""
        if self._args.json:
            result = {
                **self.about,
                "minutes": (time.perf_counter() - self._start) / 60,
                "rows": list(self._found.values()),
                "not_measured": [name for name in self._rows if name not in self._found],
            }
            pathlib.Path(self._args.json).write_text(json.dumps(result, indent=2) + "\n")

    def table(self):
        """Markdown of what was measured, and what was not."""
        lines = [["", *(heading for _, heading, _, _ in COLUMNS)], ["---"] * (1 + len(COLUMNS))]
        for name, row in self._found.items():
            numbers = [
                ""
                if row.get(field) is None
                else format(row[field] / unit if unit != 1 else row[field], form)
                for field, _, unit, form in COLUMNS
            ]
            lines.append([name, *numbers])
        missing = [name for name in self._rows if "seconds" not in self._found.get(name, {})]
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return text + (f"\n\nNot measured: {'; '.join(missing)}." if missing else "")


def ours(report, args, seconds):
    """Measures this project's rows in so many seconds; once more those that a crash left out."""
    shrink = SHRINK if args.small else 1
    rows = [{**row, "batch_size": row["batch_size"] // shrink} for row in ROWS]
    end = time.perf_counter() + seconds
    while rows and end - time.perf_counter() > RESERVE:
        begun = measure(rows, report, args, end)
        rows = [row for row in rows if row not in begun]


def measure(rows, report, args, end):
    """Measures rows in one process until `end`; the rows that it began to measure."""
    spec = {
        "rows": rows,
        "steps": args.steps,
        "small": args.small,
        "at_once": max(1, min(4, len(os.sched_getaffinity(0)) // 2)),
    }
    begun, seconds = [], end - time.perf_counter()
    command = [sys.executable, str(HERE / "accelerator_jaxdiff.py"), json.dumps(spec)]
    with limited(contenders.Contender(command), seconds) as worker:
        report.about.update(worker.start())
        done = worker.ask("wait", seconds=COMPILING * (end - time.perf_counter()))["done"]
        for row in sorted(rows, key=lambda row: row["name"] not in done):
            begun.append(row)
            found = worker.ask("measure", name=row["name"])
            # What is measured while others are compiled may be slower.
            alone = len(done) == len(rows)
            report.add(row["name"], {"batch_size": row["batch_size"], "alone": alone, **found})
    return begun or rows


def peer(row, report, args, seconds):
    """Measures one of PyTorch's rows in so many seconds."""
    size = PEER_BATCH // (SHRINK if args.small else 1)
    spec = {
        "contender": "guided-diffusion compiled" if row["compiled"] else "guided-diffusion",
        "source": os.path.abspath(args.guided_diffusion),
        "options": SMALL_OPTIONS if args.small else OPTIONS,
        "batch_size": size,
        "precision": row["precision"],
        "device": args.peer_device,
    }
    command = [args.peer_python, str(HERE / "peer_torch.py"), json.dumps(spec)]
    with limited(contenders.Contender(command), seconds) as worker:
        ready = worker.start()
        fit = worker.ask("fit", parts=1)
        step = worker.ask("wall", name="step", calls=args.steps)["seconds"]
        fields = {
            "batch_size": size,
            "parts": fit["parts"],
            "seconds": step,
            "images_per_s": size / step,
            "bytes": worker.ask("memory")["bytes"],
            "compile_s": fit["seconds"],
            "parameters": ready["parameters"],
            "version": ready["version"],
        }
    report.add(row["name"], fields)


class limited:
    """A context that ends a contender when it is left, or after so many seconds.

    Asking it then raises EOFError, as if it crashes; either ends the context, not the program.
    """

    def __init__(self, contender, seconds):
        self._contender = contender
        self._timer = threading.Timer(max(seconds, 0), contender.kill)

    def __enter__(self):
        self._timer.start()
        return self._contender

    def __exit__(self, kind, *_):
        self._timer.cancel()
        self._contender.end()
        return kind is EOFError


def main():
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "minutes", Annotated[float, Range(0.1, 600)], 9.0, "To end after")
    cli.add_flag(parser, "steps", Annotated[int, Range(1, 1000)], 10, "That are timed of each")
    cli.add_flag(parser, "small", bool, False, "Rehearse with tiny networks, on a CPU too")
    cli.add_flag(parser, "guided_diffusion", help="Folder of guided-diffusion's source")
    cli.add_flag(parser, "peer_python", default=sys.executable, help="Python that has torch")
    cli.add_flag(parser, "peer_device", default="cuda", help="Of PyTorch")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    peers = PEER_ROWS if args.guided_diffusion else ()
    report = Report([*ROWS, *peers], args)
    report.write()
    ours(report, args, report.left() - PEERS * len(peers))
    for number, row in enumerate(peers):
        peer(row, report, args, report.left() / (len(peers) - number))
    report.write()
    print(f"{report.about.get('device')}, {report.about.get('version')}\n{report.table()}")


if __name__ == "__main__":
    main()
