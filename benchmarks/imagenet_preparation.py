"""CPU time of `prepare imagenet`, and of reading what it writes, on photographs of ImageNet's size.

    python benchmarks/imagenet_preparation.py photographs.tar

The photographs are brought to the area of 500 x 375 pixels and to about 110 KB each, ImageNet's
averages, and written as ILSVRC2012_img_train.tar; one process prepares them in both encodings,
reads them as training does, and writes records of pictures that are encoded already, which is what
the program does itself where workers encode. CPU seconds, so that other programs do not count.
"""

import argparse
import io
import pathlib
import sys
import tarfile
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from jaxdiff import files
from jaxdiff.config import DataConfig, Label
from jaxdiff.data import archives, prepared
from jaxdiff.data.dataset import Dataset, Split, stored
from jaxdiff.data.prepare import Preparation, prepare
from jaxdiff.data.source import open_split
from tests.data import ilsvrc

AREA, BYTES = 500 * 375, 110_000
BATCH, WRITTEN = 128, 32 * 1024  # images of a batch, and records that are written


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", help="a tar archive of photographs")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--image_size", type=int, default=64)
    args = parser.parse_args()
    photographs = list(_photographs(args.photographs, args.count))
    mean = np.mean([len(each) for each in photographs])
    print(f"{len(photographs)} photographs, {mean / 1000:.0f} KB each on average")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wnids = ilsvrc.WNIDS[:4]
        train = {
            w: {f"{w}_{n}.JPEG": each for n, each in enumerate(photographs[c :: len(wnids)])}
            for c, w in enumerate(wnids)
        }
        path = ilsvrc.archives(ilsvrc.Pictures(train, []), folder / "in")[0]
        _index(files.parse_path(path, "The archive"), len(photographs))
        for encoding in ("png", "raw"):
            _prepare(path, folder / encoding, encoding, args)
        sources = {encoding: _open(folder / encoding, args) for encoding in ("png", "raw")}
        for _ in range(3):  # in alternation
            for encoding, source in sources.items():
                _read(source, encoding)
        for encoding, source in sources.items():
            _write(source, folder / f"{encoding}_again", encoding)


def _photographs(path, count):
    """JPEG files of the wanted area, and as nearly as quality allows of the wanted size."""
    with tarfile.open(path) as archive:
        members = [m for m in archive if m.name.lower().endswith((".jpg", ".jpeg"))]
        for number in np.linspace(0, len(members) - 1, count).astype(int):
            content = archive.extractfile(members[number]).read()
            picture = Image.open(io.BytesIO(content)).convert("RGB")
            scale = (AREA / (picture.width * picture.height)) ** 0.5
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
            qualities = (85, 90, 93, 95, 97, 98, 99, 100)
            written = (ilsvrc.encoded(picture, quality=quality) for quality in qualities)
            yield min(written, key=lambda content: abs(len(content) - BYTES))


def _index(path, count):
    begun = time.process_time()
    archives.inner(path, archives.members(path))
    seconds = (time.process_time() - begun) / count
    print(f"index: {seconds * 1e6:.0f} us a picture")


def _prepare(path, out, encoding, args):
    values = Preparation(image_size=args.image_size, out=str(out), encoding=encoding, workers=0)
    begun = time.process_time()
    count = prepare("imagenet", [path], values)[1].sizes["train"]
    seconds = time.process_time() - begun
    size = sum(p.stat().st_size for p in out.glob("*array_record*"))
    print(f"{encoding}: {count / seconds:.0f} images/s prepared, {size / count:.0f} bytes each")


def _open(out, args):
    data = DataConfig(name=str(out), image_size=args.image_size)
    return open_split(data, "train", (Label(len(ilsvrc.WNIDS[:4])),))


def _read(source, encoding):
    random, rounds = np.random.default_rng(0), 20
    begun = time.process_time()
    for _ in range(rounds):
        source.fetch(random.integers(0, len(source), BATCH))
    print(f"{encoding}: {rounds * BATCH / (time.process_time() - begun):.0f} images/s read")


def _write(source, out, encoding):
    images = [stored(image, encoding) for image in source.all()["x"]]

    def read(start, stop):
        return ({"image": images[n % len(images)], "label": 0} for n in range(start, stop))

    shapes = {"image": source.all()["x"].shape[1:], "label": ()}
    split, request = Split("train", WRITTEN, read), {"kind": encoding}
    dataset = Dataset((split,), shapes, ("one",), request, encoding=encoding)
    begun = time.process_time()
    prepared.write(files.parse_path(out, "The folder"), "written", dataset, quiet=True)
    print(f"{encoding}: {WRITTEN / (time.process_time() - begun):.0f} images/s written")


if __name__ == "__main__":
    main()
