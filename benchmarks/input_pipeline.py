"""Images a second that the input pipeline reads, beside those that training steps take.

    python benchmarks/input_pipeline.py --pictures photographs
    python benchmarks/input_pipeline.py --plans imagenet64_edm@v5e:8x8,imagenet64_edm@h100:8

Images of 64 x 64 in four forms are read in shuffled batches by `jaxdiff.data.pipeline.batches`,
with 0 (a thread), 1 and 2 workers, in turn, each in a process of its own:

    png       records with PNG files, as `prepare` writes them
    raw       records with the arrays' bytes, `prepare --encoding raw`
    memory    one uint8 array
    npz       rows of an uncompressed npz file, mapped into memory

Prints images a second by the clock and by CPU seconds of all its processes, and what of these the
process that trains spends itself; medians over the rounds. Without --pictures, a folder of class
folders, images are noise with the spectrum of photographs. Then, for every plan named, the
images a second that a step takes (`python -m jaxdiff.plan --quick`), of all and of one host, and
the cores that each form needs for as many.
"""

import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np
from etils import epath

from jaxdiff import cli
from jaxdiff.config import DataConfig, Label, Range
from jaxdiff.data import pipeline
from jaxdiff.data import source as source_lib
from jaxdiff.data.dataset import from_arrays
from jaxdiff.data.images import fit
from jaxdiff.data.prepared import write as write_dataset
from jaxdiff.plan import command, hardware

FORMS, WORKERS = ("png", "raw", "memory", "npz"), (0, 1, 2)
SIZE, CLASSES, NAME = 64, 1000, "pictures"
PLANS = ("imagenet64_edm@v5e:8x8", "imagenet64_edm@h100:8", "imagenet64_edm_guide@h100:8")
Count = Annotated[int, Range(1, 2**20)]


def pictures(folder, count):
    """uint8 [count, 64, 64, 3]: pictures of a folder, again and again shifted; or noise."""
    if not folder:
        return np.concatenate([_noise(1024, seed) for seed in range(-(-count // 1024))])[:count]
    from PIL import Image

    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    images = np.stack(
        [fit(np.asarray(Image.open(path).convert("RGB")), SIZE, 3) for path in paths[:count]]
    )
    copies = [np.roll(images, 7 * n, axis=2) for n in range(-(-count // len(images)))]
    return np.concatenate(copies)[:count]


def _noise(count, seed):
    """Images whose amplitudes fall with frequency, as those of photographs do."""
    noise = np.random.default_rng(seed).standard_normal((count, SIZE, SIZE, 3))
    across = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    falling = 1 / np.maximum(across, 1 / SIZE)[..., None] ** 1.2
    shaped = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) * falling, axes=(1, 2)).real
    shaped /= shaped.std((1, 2, 3), keepdims=True)
    return np.clip(127.5 + 55 * shaped, 0, 255).astype(np.uint8)


def write_forms(folder, images):
    """Writes the forms that are files; bytes of an image in each."""
    labels = np.arange(len(images)) % CLASSES
    arrays = {"x": images, "cond": {"label": labels}}
    for form in ("png", "raw"):
        names = tuple(map(str, range(CLASSES)))
        dataset = from_arrays({"train": lambda: arrays}, names, {"sources": form}, encoding=form)
        write_dataset(epath.Path(folder / form), NAME, dataset, quiet=True)
    np.savez(folder / "rows.npz", images=images, labels=labels)
    files = {form: folder.glob(f"{form}/*record*") for form in ("png", "raw")}
    files["memory"], files["npz"] = (), (folder / "rows.npz",)
    sizes = {form: sum(f.stat().st_size for f in found) for form, found in files.items()}
    return {form: size / len(images) for form, size in sizes.items()}


def source(folder, form):
    """The Source of a form."""
    if form in ("png", "raw"):
        data = DataConfig(name=str(folder / form), image_size=SIZE)
        return source_lib.open_split(data, "train", (Label(CLASSES),))
    if form == "memory":
        with np.load(folder / "rows.npz") as rows:
            return source_lib.from_arrays(rows["images"], {"label": rows["labels"]})
    return source_lib.from_arrays(*_mapped(folder / "rows.npz"))


def _mapped(path):
    """(images, {"label"}) of an uncompressed npz file, the images mapped into memory."""
    import zipfile

    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        # A member that is stored as it is ends where the next one's header begins.
        following = archive.getinfo("labels.npy").header_offset
    offset = following - int(np.prod(shape)) * dtype.itemsize
    with np.load(path) as rows:
        return np.memmap(path, dtype, "r", offset, shape), {"label": rows["labels"]}


def worker(folder, form, workers, batch_size, seconds):
    """Reads batches for so many seconds, after some to warm up, and prints what they took.

    That is {"images", "seconds", "cpu", "own"}: how many there were, seconds by the clock, CPU
    seconds of all processes, and of this one, which is the one that would train.
    """
    reader = pipeline.batches(source(pathlib.Path(folder), form), batch_size, 0, 0, workers)
    for _ in range(4 + 8 * workers):
        next(reader)
    start, cpu, own, images = time.perf_counter(), _cpu(), time.process_time(), 0
    while (passed := time.perf_counter() - start) < seconds:
        images += len(next(reader)["x"])
    cpu, own = _cpu() - cpu, time.process_time() - own
    print(json.dumps({"images": images, "seconds": passed, "cpu": cpu, "own": own}))
    sys.stdout.flush()
    for child in multiprocessing.active_children():  # else they would be waited for
        child.kill()
    os._exit(0)


def _cpu():
    """CPU seconds of this process and its workers, which Linux counts in hundredths."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measured(folder, form, workers, args):
    """What a `worker` prints, in a process of its own."""
    values = [folder, form, workers, args.batch_size, args.seconds]
    flags = [__file__, "worker", *map(str, values)]
    done = subprocess.run([sys.executable, *flags], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(args):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        images = pictures(args.pictures, args.images)
        sizes = write_forms(folder, images)
        sizes["memory"] = images[0].nbytes
        keys = [(form, workers) for form in FORMS for workers in WORKERS]
        rounds = {key: [] for key in keys}
        for _ in range(args.rounds):
            for key in keys:
                rounds[key].append(measured(folder, *key, args))
    rates = {
        key: {
            name: statistics.median(each["images"] / each[name] for each in found)
            for name in ("seconds", "cpu", "own")
        }
        for key, found in rounds.items()
    }
    print(
        f"{args.images:,} images, batches of {args.batch_size}, {args.rounds} rounds, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n"
    )
    head = ["form", "bytes an image", "workers", "images/s", "a CPU s", "a CPU s of the trainer"]
    lines = [
        [form, f"{sizes[form]:,.0f}", str(workers)]
        + [f"{rates[form, workers][name]:,.0f}" for name in ("seconds", "cpu", "own")]
        for form, workers in keys
    ]
    print(_markdown([head, *lines]))
    found = {"sizes": sizes, "rates": {f"{f} {w}": r for (f, w), r in rates.items()}}
    if args.plans:
        print()
        found["plans"] = _needs(args.plans, rates)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(found, indent=1))


def _needs(plans, rates):
    """Prints what steps take; {plan: values}."""
    head = ["config", "devices", "hosts", "images/s", "a host", "at most, a host"]
    lines, found = [[*head, *(f"cores, {form}" for form in FORMS)]], {}
    for plan in plans:
        config, _, topology = plan.partition("@")
        flags = ["--config", f"configs/{config}.py", "--topology", topology, "--quick"]
        (report,) = command.reports(command.parser().parse_args(flags))
        values = found[plan] = report.values()
        hosts = report.topology.hosts
        most = values["most_images_per_s"] / hosts
        lines.append(
            [config, topology, str(hosts), f"{values['images_per_s']:,.0f}"]
            + [f"{values['images_per_s'] / hosts:,.0f}", f"{most:,.0f}"]
            + [f"{most / rates[form, 1]['cpu']:.2f}" for form in FORMS]
        )
    print(_markdown(lines))
    return found


def _markdown(lines):
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main():
    if sys.argv[1:2] == ["worker"]:
        folder, form, *numbers = sys.argv[2:]
        return worker(folder, form, *map(int, numbers))
    hardware.ready()
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "pictures", help="Folder of pictures")
    cli.add_flag(parser, "images", Count, 16_384, "How many images there are")
    cli.add_flag(parser, "batch_size", Count, 128, "Of a host")
    cli.add_flag(parser, "seconds", Count, 3, "That each reads")
    cli.add_flag(parser, "rounds", Count, 3, "Of all forms in turn")
    cli.add_flag(parser, "plans", tuple[str, ...], PLANS, "Steps, as CONFIG@TOPOLOGY")
    cli.add_flag(parser, "json", help="File to write the numbers to")
    cli.run(_measure, parser)


if __name__ == "__main__":
    main()
