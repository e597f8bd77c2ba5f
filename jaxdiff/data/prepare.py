"""Makes a dataset that training reads of npz files, or of a folder of class folders.

    python -m jaxdiff.data.prepare npz train.npz test.npz --name fashion --out data/fashion
    python -m jaxdiff.data.prepare folder photographs --name birds --image_size 64 --out data/birds

Then `data.name = "data/fashion"` in a config. The same command continues what was stopped.
docs/data.md says what is read, and what is written.
"""

import pathlib
from concurrent.futures.process import BrokenProcessPool

from absl import flags

from jaxdiff import cli
from jaxdiff.data import folders, npz, prepared
from jaxdiff.errors import UserError

KINDS = ("npz", "folder")


def prepare(kind, sources, values):
    """Writes the dataset, and returns its `jaxdiff.data.prepared.Report`.

    Args:
      kind: npz or folder.
      sources: the files, or the one folder.
      values: the flags' values, as attributes.

    Raises:
      UserError: if the sources cannot be used, or the folder cannot be written.
    """
    name = cli.require("name", values.name, "a name for the dataset, such as my_photographs")
    out = cli.require("out", values.out, "the folder of the dataset")
    if values.channels not in (None, 1, 3):
        raise UserError(f"--channels is {values.channels}: it must be 1 or 3.")
    if kind == "npz":
        if values.held_out:
            raise UserError("--held_out is for folders: give an npz file for each split.")
        if values.workers:
            raise UserError("--workers is for folders: an npz file is read at once; leave it out.")
        return prepared.write(
            out, name, npz.open_files(sources, values.image_size, values.channels)
        )
    if kind != "folder":
        raise UserError(f"{kind} cannot be prepared: give {' or '.join(KINDS)} first.")
    size = cli.require("image_size", values.image_size, "the size of images, such as 64")
    folder = _only_folder(sources, out)
    with folders.pool(values.workers) as mapped:
        dataset = folders.open_folder(folder, size, values.channels or 3, values.held_out, mapped)
        return prepared.write(out, name, dataset)


def _only_folder(sources, out):
    if len(sources) > 1:
        raise UserError(f"The argument {sources[1]} was not expected: give one folder.")
    folder = pathlib.Path(sources[0])
    if pathlib.Path(out).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {out} lies in {folder}, which is to be read: choose another --out.")
    return folder


def main(kind, *sources):
    """Prepares, and says what there is."""
    values = flags.FLAGS
    try:
        report = prepare(kind, sources, values)
    except KeyboardInterrupt:
        raise UserError("Stopped: the same command continues.") from None
    except BrokenProcessPool:
        raise UserError(
            "A process that reads pictures has died, for want of memory perhaps: the same command "
            "continues; give fewer --workers."
        ) from None
    out = pathlib.Path(values.out)
    counts = ", ".join(f"{split} {size:,}" for split, size in report.sizes.items())
    print(f"{out} was there already: {counts}" if report.was_there else f"{out}: {counts}")
    if report.skipped:
        print(f"Skipped {len(report.skipped):,} files, listed in {out / prepared.SKIPPED}")
    if "train" not in report.sizes:
        print("There is no split train, which is the one that training reads.")


if __name__ == "__main__":
    flags.DEFINE_string("name", None, "Of the dataset: lower-case letters, digits, underscores.")
    flags.DEFINE_string("out", None, "Folder of the dataset.")
    flags.DEFINE_integer(
        "image_size", None, "Crop and resize to this; default for npz: as they are.", lower_bound=1
    )
    flags.DEFINE_integer("channels", None, "1 or 3; default: as in the npz file, 3 for folders.")
    flags.DEFINE_float(
        "held_out", 0, "Share of a folder that becomes `test`.", lower_bound=0, upper_bound=0.99
    )
    flags.DEFINE_integer("workers", 0, "Processes that read a folder.", lower_bound=0)
    cli.run(main, "npz or folder", "an npz file or a folder of class folders", more=True)
