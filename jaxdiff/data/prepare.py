"""Makes a dataset for training from npz files, a folder of class folders, or ImageNet.

    python -m jaxdiff.data.prepare npz train.npz test.npz --name fashion --out data/fashion
    python -m jaxdiff.data.prepare folder photographs --name birds --image_size 64 --out data/birds
    python -m jaxdiff.data.prepare imagenet downloads --image_size 64 --out data/imagenet64

It ends with the lines that a config needs. The same command continues what was stopped.
docs/data.md says what is read, and what is written.
"""

import os
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Literal

from jaxdiff import cli, files
from jaxdiff.config.fields import Range, hints, settings
from jaxdiff.errors import UserError

HALVED = 8  # images whose sides are multiples of it can be halved three times, as by default
FOR_FOLDERS = ("held_out", "layout", "bits")
NOT_FOR_IMAGENET = ("vector", "condition_image", "channels", *FOR_FOLDERS)


@settings(section="-")
class Preparation:
    """How a dataset is made of its sources.

    Attributes:
      name: name of the dataset: lower-case letters, numbers, underscores; imagenet by default
        where it is that.
      out: folder of the dataset.
      image_size: size that images are cropped and resized to; optional for npz files.
      channels: 1 or 3; by default those of npz files, and 3 for folders.
      vector: NAME[=CONDITION]: an array of npz files that becomes the condition of that name, by
        default `vector`; several with commas.
      condition_image: NAME[=CONDITION]: the same for an array of images, or for a folder of
        pictures with the same names; by default `image`.
      held_out: share of the pictures of a folder that becomes the split test.
      layout: whether the folders in the folder are classes or splits, whatever their names.
      bits: number of bits that pictures of more than 8 use; by default it is found.
      encoding: how images are stored: png, or raw, which takes more room and less time to read.
      workers: number of processes that read pictures: 0 by default for a folder, whose pictures
        this process reads, and one for each core for ImageNet.
    """

    name: str = ""
    out: str = ""
    image_size: Annotated[int, Range(1, 2**14)] | None = None
    channels: Literal[1, 3] | None = None
    vector: tuple[str, ...] = ()
    condition_image: tuple[str, ...] = ()
    held_out: Annotated[float, Range(0, 1, below=True)] = 0.0
    layout: Literal["classes", "splits"] | None = None
    bits: Annotated[int, Range(8, 16)] | None = None
    encoding: Literal["png", "raw"] = "png"
    workers: Annotated[int, Range(0, 1024)] | None = None


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("kind", help="npz, folder or imagenet")
    parser.add_argument(
        "sources",
        nargs="+",
        help="npz files, one folder of class folders, or ImageNet's archives or folder",
    )
    cli.add_settings(parser, Preparation)
    cli.run(_job, parser)


def _job(args):
    given = {name: getattr(args, name) for name in hints(Preparation)}
    values = Preparation(**{name: value for name, value in given.items() if value is not None})
    try:
        dataset, report = prepare(args.kind, args.sources, values)
    except BrokenProcessPool:
        raise UserError(
            "A process that reads pictures has died, perhaps because memory ran out: the same "
            "command continues; give fewer --workers."
        ) from None
    encoding = sys.stdout.encoding or "utf-8"
    for line in described(dataset, report, values.out):
        # Also where the terminal has not all letters of the classes.
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def prepare(kind, sources, values):
    """Writes a dataset.

    Args:
      kind: npz, folder or imagenet.
      sources: npz files, one folder, or what `jaxdiff.data.imagenet.find` takes.
      values: a Preparation.

    Returns:
      (its `jaxdiff.data.dataset.Dataset`, the `jaxdiff.data.prepared.Report`).

    Raises:
      UserError: if the sources cannot be used, or the folder cannot be written.
    """
    kinds = {"npz": _of_npz, "folder": _of_folder, "imagenet": _of_imagenet}
    if kind not in kinds:
        raise UserError(
            f"{kind} cannot be prepared: give `npz` and npz files, `folder` and a folder, or "
            "`imagenet` and its archives."
        )
    name = values.name or ("imagenet" if kind == "imagenet" else "")
    name = cli.require("name", name, "a name for the dataset, such as my_photographs")
    out = files.parse_path(cli.require("out", values.out, "the folder of the dataset"), "--out")
    _require_local("--out", out)
    return kinds[kind]([files.parse_path(each, "A source") for each in sources], name, out, values)


def _of_npz(paths, name, out, values):
    from jaxdiff.data import npz, prepared

    images, vectors = _named(values.condition_image, "image"), _named(values.vector, "vector")
    _refuse(values, (*FOR_FOLDERS, "workers"), "for folders of pictures")
    if both := vectors.keys() & images.keys():
        raise UserError(f"Two arrays are the condition {min(both)}: rename one.")
    conditions = {**vectors, **images}
    dataset = npz.open_files(paths, values.image_size, values.channels, conditions, values.encoding)
    return dataset, prepared.write(out, name, dataset)


def _of_folder(paths, name, out, values):
    from jaxdiff.data import folders, prepared

    if len(paths) > 1 or values.vector:
        wrong = f"--vector {values.vector}" if values.vector else paths[1]
        raise UserError(
            f"{wrong} cannot be prepared: give `folder` one folder, or `npz` npz files."
        )
    cli.require("image_size", values.image_size, "the size of images, such as 64")
    _check_outside(paths, out)
    images = _named(values.condition_image, "image")
    images = {name: files.parse_path(path, "--condition_image") for name, path in images.items()}
    for path in (*paths, *images.values()):
        _require_local("The folder of pictures", path)
    with folders.pool(values.workers or 0) as mapped:
        dataset = folders.open_folder(paths[0], values, images, mapped)
        return dataset, prepared.write(out, name, dataset)


def _of_imagenet(paths, name, out, values):
    from jaxdiff.data import folders, imagenet, prepared

    _refuse(values, NOT_FOR_IMAGENET, "not for ImageNet")
    _check_outside(paths, out)
    for path in paths:
        _require_local("A source", path)
    workers = _cores() if values.workers is None else values.workers
    with folders.pool(workers) as mapped:
        dataset = imagenet.open_imagenet(paths, name, values, out, mapped)
        if not files.exists(out / prepared.INFO):
            for line in imagenet.plan(dataset, out, max(1, workers)):
                print(line, flush=True)
        return dataset, prepared.write(out, name, dataset)


def _cores():
    """Of this machine, those that this process may use where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _refuse(values, names, why):
    """Refuses settings that another kind of source has."""
    for name in names:
        if getattr(values, name):
            raise UserError(f"--{name} is {why}: leave it out.")


def _check_outside(paths, out):
    for path in paths:
        if files.absolute(path) in files.absolute(out).parents:
            raise UserError(f"--out {out} is in {path}, which is to be read: choose another --out.")


def _require_local(name, path):
    if files.is_remote(path):
        raise UserError(
            f"{name} is {path}, in a bucket: give a folder on this machine; a finished dataset may "
            "be copied up."
        )


def _named(texts, default):
    """{condition: array or folder} of texts NAME[=CONDITION]."""
    named = {}
    for text in texts:
        name, _, condition = text.partition("=")
        condition = condition or default
        if condition in (*named, "label", "x", "condition_image") or not condition.isidentifier():
            raise UserError(
                f"{text} names the condition {condition}, which must be a word, given once, and "
                f"not label, x or condition_image: add another, such as {name}=other."
            )
        named[condition] = name
    return named


def described(dataset, report, out):
    """Lines on what was prepared, what was not, and what a config needs."""
    from jaxdiff.data.prepared import SKIPPED

    sizes = ", ".join(f"{split} {size:,}" for split, size in report.sizes.items())
    yield f"{out} was there already: {sizes}" if report.was_there else f"{out}: {sizes}"
    if dataset.classes:
        yield from _of_classes(dataset.classes, report.counts)
    yield from dataset.notes
    if report.skipped:
        yield f"Skipped {report.skipped:,} files, listed in {os.path.join(out, SKIPPED)}"
    if "train" not in report.sizes:
        yield "There is no split train, which is the one that training reads."
    yield "For a config:"
    yield from (f"    {line}" for line in _settings(dataset, report, str(out)))


def _of_classes(classes, counts):
    """The number of classes, images of each, and the classes that have none."""
    from jaxdiff.data.layout import some

    yield f"Classes: {len(classes):,}"
    names = [
        f"{name} ({', '.join(f'{split} {numbers[c]:,}' for split, numbers in counts.items())})"
        for c, name in enumerate(classes)
    ]
    yield f"    {some(names, 50)}"
    for split, numbers in counts.items():
        if missing := [name for name, n in zip(classes, numbers, strict=True) if not n]:
            yield f"Classes without images in the split {split}: {some(missing)}"


def _settings(dataset, report, out):
    """The settings of a config that fit the dataset."""
    from jaxdiff.config import DataConfig
    from jaxdiff.data.source import open_split
    from jaxdiff.data.statistics import standard_deviation

    height, width, channels = dataset.shapes["image"]
    size = -(-max(height, width) // HALVED) * HALVED
    settings = {
        "name": out,
        "image_size": size,
        "fit": "crop" if height == width == size else "pad",
        "channels": channels,
    }
    others = [split for split in report.sizes if split != "train"]
    if others and "test" not in others:
        settings["held_out"] = others[0]
    yield f"data=DataConfig({', '.join(f'{name}={value!r}' for name, value in settings.items())})"
    shapes = {feature: shape for feature, shape in dataset.shapes.items() if feature != "image"}
    if shapes:
        conditions = [_condition(*each, len(dataset.classes)) for each in shapes.items()]
        end = "," if len(conditions) == 1 else ""
        yield f"model=UNetConfig(conditions=({', '.join(conditions)}{end}))"
    if "train" not in report.sizes:
        return
    try:
        deviation = standard_deviation(open_split(DataConfig(**settings), "train", ()))
    except UserError:  # all values are the same
        return
    yield f"diffusion=EDM(data_std={deviation:.4f})"


def _condition(feature, shape, classes):
    """A condition of the model, as a config has it."""
    if feature == "label":
        return f"Label({classes})"
    kind, default = ("Image", "condition_image") if len(shape) == 3 else ("Vector", "vector")
    return f"{kind}({shape[-1]})" if feature == default else f'{kind}({shape[-1]}, "{feature}")'


if __name__ == "__main__":
    main()
