"""Makes a dataset that training reads of npz files, or of a folder of class folders.

    python -m jaxdiff.data.prepare npz train.npz test.npz --name fashion --out data/fashion
    python -m jaxdiff.data.prepare folder photographs --name birds --image_size 64 --out data/birds

It ends with the lines that a config needs, `data.name = "data/fashion"` and so on. The same command
continues what was stopped. docs/data.md says what is read, and what is written.
"""

import os
import sys
from concurrent.futures.process import BrokenProcessPool

from absl import flags

from jaxdiff import cli
from jaxdiff.data import folders, layout, npz, prepared
from jaxdiff.data.images import free_memory
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError
from jaxdiff.files import local_path

KINDS = ("npz", "folder")
BYTES_OF_A_PIXEL = 16  # while an image is resized
HALVED = 8  # images whose sides are multiples of it can be halved three times, as by default


def prepare(kind, sources, values):
    """Writes the dataset, and returns its `jaxdiff.data.dataset.Report`.

    Args:
      kind: npz or folder.
      sources: the files, or the one folder.
      values: the flags' values, as attributes.

    Raises:
      UserError: if the sources cannot be used, or the folder cannot be written.
    """
    name = cli.require("name", values.name, "a name for the dataset, such as my_photographs")
    out = local_path(cli.require("out", values.out, "the folder of the dataset"), "--out")
    if values.channels not in (None, 1, 3):
        raise UserError(f"--channels is {values.channels}: it must be 1 or 3.")
    sources = [local_path(source, "A source") for source in sources]
    if (side := values.image_size or 0) ** 2 * BYTES_OF_A_PIXEL > free_memory():
        raise UserError(
            f"--image_size is {side}, and an image of {side} x {side} pixels does not fit into "
            "memory: give a smaller one."
        )
    if kind == "npz":
        for flag in ("held_out", "workers", "layout", "bits"):
            if getattr(values, flag):
                raise UserError(f"--{flag} is for folders of pictures: leave it out.")
        dataset = npz.open_files(sources, values.image_size, values.channels)
        return prepared.write(out, name, dataset)
    if kind != "folder":
        raise UserError(f"{kind} cannot be prepared: give {' or '.join(KINDS)} first.")
    size = cli.require("image_size", values.image_size, "the size of images, such as 64")
    folder = _only_folder(sources, out)
    with folders.pool(values.workers) as mapped:
        dataset = folders.open_folder(
            folder,
            size,
            values.channels or 3,
            values.held_out,
            values.layout,
            values.bits,
            mapped,
        )
        return prepared.write(out, name, dataset)


def _only_folder(sources, out):
    if len(sources) > 1:
        raise UserError(f"The argument {sources[1]} was not expected: give one folder.")
    (folder,) = sources
    if os.path.realpath(out).startswith(os.path.join(os.path.realpath(folder), "")):
        raise UserError(f"--out {out} is in {folder}, which is to be read: choose another --out.")
    return folder


def main(kind, *sources):
    """Prepares, and says what there is."""
    values = flags.FLAGS
    try:
        report = prepare(kind, sources, values)
        for line in described(report, values.out):
            _say(line)
    except BrokenProcessPool:
        raise UserError(
            "A process that reads pictures has died, for want of memory perhaps: the same command "
            "continues; give fewer --workers."
        ) from None


def _say(line):
    """Prints a line, also where the terminal has not all of its letters."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding))


def described(report, out):
    """Lines on what was prepared, what was not, and what a config needs."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in report.sizes.items())
    yield f"{out} was there already: {sizes}" if report.was_there else f"{out}: {sizes}"
    if report.classes:
        yield from _of_classes(report)
    yield from report.notes
    if report.skipped:
        where = os.path.join(out, prepared.SKIPPED)
        yield f"Skipped {len(report.skipped):,} files, listed in {where}"
    if "train" not in report.sizes:
        yield "There is no split train, which is the one that training reads."
    yield "For a config:"
    yield from (f"    config.{line}" for line in _settings(report, out))


def _of_classes(report):
    """The number of classes, images of each, and the classes that have none."""
    yield f"Classes: {len(report.classes):,}"
    if not report.counts:
        return
    names = [
        f"{name} ({', '.join(f'{s} {numbers[c]:,}' for s, numbers in report.counts.items())})"
        for c, name in enumerate(report.classes)
    ]
    yield f"    {layout.some(names, 50)}"
    for split, numbers in report.counts.items():
        missing = [name for name, n in zip(report.classes, numbers, strict=True) if not n]
        if missing:
            yield f"Classes without images in the split {split}: {layout.some(missing)}"


def _settings(report, out):
    """Fields of a config that fit the dataset, in its section `data` and the data's deviation."""
    height, width, channels = report.shape
    size = -(-max(height, width) // HALVED) * HALVED
    fit = "crop" if height == width == size else "pad"
    yield f'data.name = "{out}"'
    yield f"data.image_size = {size}"
    yield f'data.fit = "{fit}"'
    yield f"data.channels = {channels}"
    yield f"data.num_classes = {len(report.classes)}"
    if "train" not in report.sizes:
        return
    if "test" not in report.sizes and (others := [s for s in report.sizes if s != "train"]):
        yield f'data.held_out = "{others[0]}"'
    # It imports JAX, which processes that read images need not.
    from jaxdiff.data.source import open_source

    source = open_source(
        str(out), "train", image_size=size, channels=channels, num_classes=0, fit=fit
    )
    try:
        yield f"diffusion.data_std = {standard_deviation(source):.4f}"
    except UserError:  # all values are the same
        return


def _define_flags():
    flags.DEFINE_string("name", None, "Of the dataset: lower-case letters, digits, underscores.")
    flags.DEFINE_string("out", None, "Folder of the dataset.")
    flags.DEFINE_integer(
        "image_size", None, "Crop and resize to this; default for npz: as they are.", lower_bound=1
    )
    flags.DEFINE_integer("channels", None, "1 or 3; default: as in the npz file, 3 for folders.")
    flags.DEFINE_float(
        "held_out", 0, "Share of a folder that becomes `test`.", lower_bound=0, upper_bound=0.99
    )
    flags.DEFINE_enum(
        "layout", None, layout.LAYOUTS, "What the folders in a folder are; default: found."
    )
    flags.DEFINE_integer(
        "bits",
        None,
        "That pictures of more than 8 use, such as 12; default: found.",
        lower_bound=8,
        upper_bound=16,
    )
    flags.DEFINE_integer("workers", 0, "Processes that read a folder.", lower_bound=0)


if __name__ == "__main__":
    _define_flags()
    cli.run(main, "npz or folder", "an npz file or a folder of class folders", more=True)
