"""Times a network beside other implementations of it: PyTorch's, on one core of a CPU.

    git clone https://github.com/openai/guided-diffusion
    python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt
    python benchmarks/peers.py --guided_diffusion guided-diffusion --peer_python peers/bin/python
    python benchmarks/peers.py --guided_diffusion guided-diffusion --peer_python peers/bin/python \
        --sizes 2.0M --contenders jaxdiff,guided-diffusion --rounds 9
    python benchmarks/peers.py --profile step --sizes 2.0M --rounds 5

Networks: guided-diffusion's UNetModel for images of 32 x 32 and 10 labels, with two residual blocks
a level, widths 1, 2 and 2 times 32 (2.0M parameters) or 64 (8.0M), attention at 16 x 16 and 8 x 8
with heads 32 wide, AdaGN, and resolution changed in residual blocks; float32. Contenders: this
project; guided-diffusion as it is and by torch.compile; diffusers' UNet2DModel of the same widths.

A step of each draws noise and timesteps, computes the mean squared error of the predicted noise,
its gradient and norm, and updates AdamW and one average. This project's also converts the images
from uint8, replaces what is not finite in the gradient, and sums metrics by quarters of the noise
levels; guided-diffusion's also computes the norm of the parameters. A forward pass has no dropout
and keeps nothing for a backward pass.

First it is checked that this project's network has as many parameters as guided-diffusion's, and
with its weights the same outputs. Then every contender, a process with one thread, works in turn.
Times are CPU times, but programs that run beside it slow it by the caches that they share; a ratio
is the median over the rounds, with the middle half of them, and then that of the least times.

`--profile` prints where this project's time goes by XLA's operations: of each the least wall time
of the rounds.
"""

import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
from typing import Annotated, Literal

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import contenders
from jaxdiff import cli
from jaxdiff.config import Range
from jaxdiff.errors import UserError

HERE = pathlib.Path(__file__).parent
OURS, BASELINE = "jaxdiff", "guided-diffusion"
NAMES = (OURS, BASELINE, "guided-diffusion compiled", "diffusers")
Name = Literal["jaxdiff", "guided-diffusion", "compiled", "diffusers"]
SIZES = {"2.0M": (32, 32), "8.0M": (64, 16)}  # channels, batch size
KINDS = ("step", "forward")
WARM_UP = 2
LISTED = 40  # operations of a profile
TOLERANCE = 1e-4  # of an output, as a share of the largest


def options(channels):
    """Arguments of guided-diffusion's UNetModel."""
    return {
        "image_size": 32,
        "in_channels": 3,
        "model_channels": channels,
        "out_channels": 3,
        "num_res_blocks": 2,
        "attention_resolutions": [2, 4],
        "channel_mult": [1, 2, 2],
        "num_classes": 10,
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
    }


def started(names, channels, batch_size, args):
    """{name: Contender} that are ready."""
    spec = {
        "source": os.path.abspath(args.guided_diffusion or "."),
        "options": options(channels),
        "batch_size": batch_size,
        "precision": "float32",
        "device": "cpu",
    }
    core = max(os.sched_getaffinity(0)) if args.core is None else args.core
    found = {}
    for name in names:
        python, script = args.peer_python, "peer_torch.py"
        if name == OURS:
            python, script = sys.executable, "peer_jaxdiff.py"
        command = [python, str(HERE / script), json.dumps({**spec, "contender": name})]
        found[name] = contenders.Contender(command, contenders.ONE_THREAD, core)
    for name, contender in found.items():
        try:
            contender.start()
        except EOFError:
            end(found)
            raise UserError(
                f"{name} cannot be run with {args.peer_python}: install what "
                "benchmarks/requirements-peers.txt lists there, and give guided-diffusion's folder "
                "as --guided_diffusion."
            ) from None
    return found


def end(found):
    """Ends the contenders."""
    for contender in found.values():
        contender.end()


def check_same(ours, theirs):
    """Raises UserError unless both networks are the same function of the same parameters."""
    counts = [each.ready["parameters"] for each in (ours, theirs)]
    if counts[0] != counts[1]:
        raise UserError(
            f"{OURS} has {counts[0]:,} parameters and {BASELINE} {counts[1]:,}, which should be "
            "equal: give the guided-diffusion that openai released."
        )
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/outputs.npz"
        theirs.ask("outputs", file=file)
        found = ours.ask("compare", file=file)
    if not found["difference"] <= TOLERANCE * found["largest"]:
        raise UserError(
            f"The outputs of {OURS} and {BASELINE} differ by {found['difference']:.2g} of "
            f"{found['largest']:.2g}, which should be rounding: give the guided-diffusion that "
            "openai released."
        )
    return found


def measure(size, names, args):
    """A list of rows, one for each contender."""
    channels, batch_size = SIZES[size]
    found = started(names, channels, batch_size, args)
    try:
        same = check_same(found[OURS], found[BASELINE])
        for kind in KINDS:
            for contender in found.values():
                contender.ask("time", name=kind, calls=WARM_UP)
        times = {
            kind: contenders.in_turn(
                found,
                args.rounds,
                lambda each, kind=kind: each.ask("time", name=kind, calls=args.calls)["seconds"],
            )
            for kind in KINDS
        }
        ready = {name: each.ready for name, each in found.items()}
    finally:
        end(found)
    rows = []
    for name in names:
        row = {"size": size, "batch_size": batch_size, "contender": name, **ready[name], **same}
        for kind in KINDS:
            row[f"{kind}_s"] = statistics.median(times[kind][name])
            row[f"{kind}_ratio"] = contenders.ratio(times[kind][name], times[kind][BASELINE])
            row[f"{kind}_least_ratio"] = min(times[kind][name]) / min(times[kind][BASELINE])
            row[f"{kind}_rounds_s"] = times[kind][name]
        rows.append(row)
    return rows


def table(rows):
    """Markdown."""
    lines = [
        "| network, batch | | parameters | step, CPU ms | of guided-diffusion's "
        "| forward, CPU ms | of guided-diffusion's |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{row['size']}, {row['batch_size']}", row["contender"], f"{row['parameters']:,}"]
        for kind in KINDS:
            middle, low, high = row[f"{kind}_ratio"]
            own = f"{middle:.3f} ({low:.3f} to {high:.3f}); {row[f'{kind}_least_ratio']:.3f}"
            cells += [f"{1e3 * row[f'{kind}_s']:,.0f}", "" if row["contender"] == BASELINE else own]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chosen(short):
    """The contenders' names for those of the flag; this project and the baseline are in it."""
    full = {NAMES[2] if name == "compiled" else name for name in short}
    return [name for name in NAMES if not short or name in {*full, OURS, BASELINE}]


def main():
    parser, positive = cli.Parser(__doc__), Annotated[int, Range(1, 10_000)]
    cli.add_flag(parser, "guided_diffusion", help="Folder of guided-diffusion's source")
    cli.add_flag(parser, "peer_python", default=sys.executable, help="Python that has torch")
    cli.add_flag(parser, "sizes", tuple[Literal[tuple(SIZES)], ...], tuple(SIZES), "Networks")
    cli.add_flag(
        parser,
        "contenders",
        tuple[Name, ...],
        (),
        "Beside jaxdiff and guided-diffusion; default: all",
    )
    cli.add_flag(parser, "rounds", Annotated[int, Range(3, 1000)], 15, "How often each is timed")
    cli.add_flag(parser, "calls", positive, 1, "In a round")
    cli.add_flag(
        parser, "core", Annotated[int, Range(0, 4096)], help="To run on; default: the last"
    )
    cli.add_flag(
        parser, "profile", Literal["step", "forward"], help="Instead: where jaxdiff's time goes"
    )
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def profile(size, args):
    """Prints where the time of this project's step or forward pass goes."""
    found = started([OURS], *SIZES[size], args)
    try:
        parts = found[OURS].ask("profile", name=args.profile, calls=args.rounds)
    finally:
        end(found)
    print(f"{size}: {args.profile} of {parts['total_s'] * 1e3:,.1f} ms; by kind of operation:")
    for name, seconds in parts["kinds"]:
        print(f"{1e3 * seconds:9.2f} ms {seconds / parts['total_s']:6.1%}  {name}")
    print("and the slowest operations:")
    for name, seconds, what in parts["operations"][:LISTED]:
        print(f"{1e3 * seconds:9.2f} ms {seconds / parts['total_s']:6.1%}  {name}  {what}")


def _measure(args):
    if args.profile:
        for size in args.sizes:
            profile(size, args)
        return
    cli.require("guided_diffusion", args.guided_diffusion, "guided-diffusion's folder")
    names, rows = chosen(args.contenders), []
    for size in args.sizes:
        rows += measure(size, names, args)
    versions = sorted({row["version"] for row in rows})
    print(f"{platform.processor() or platform.machine()}, one core; {', '.join(versions)}")
    print(table(rows))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
