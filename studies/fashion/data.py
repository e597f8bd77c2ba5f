"""Prepares Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) of its published files.

    python -m studies.fashion.data downloads/fashion --out data/fashion

The folder holds the four files of https://github.com/zalandoresearch/fashion-mnist, such as
train-images-idx3-ubyte.gz. 60,000 training and 10,000 test images of 28 x 28 pixels in 10 classes;
about 20 seconds.
"""

import gzip

import numpy as np

from jaxdiff import cli, files
from jaxdiff.errors import UserError

FILES = {"train": "train", "test": "t10k"}  # how the files of a split begin
CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def read(path, header):
    """The bytes of a gzipped IDX file after its header: uint8 [N]."""
    content = files.read_bytes(path)
    try:
        return np.frombuffer(gzip.decompress(content), np.uint8, offset=header)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a gzipped IDX file ({error}): download it again.") from None


def splits(folder):
    """{"train", "test"} of {"x": uint8 [N, 28, 28, 1], "cond": {"label": int32 [N]}}."""
    return {
        split: {
            "x": read(folder / f"{file}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1),
            "cond": {"label": read(folder / f"{file}-labels-idx1-ubyte.gz", 8).astype(np.int32)},
        }
        for split, file in FILES.items()
    }


def _job(args):
    from jaxdiff.data.prepared import prepare_arrays

    folder = files.parse_path(args.folder, "The folder")
    out = files.parse_path(cli.require("out", args.out, "a folder such as data/fashion"), "--out")
    made = splits(folder)
    prepare_arrays(out, made, CLASS_NAMES)
    sizes = ", ".join(f"{split} {len(each['x']):,}" for split, each in made.items())
    print(f"{out}: {sizes}")


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", help="Folder of the four published files.")
    cli.add_flag(parser, "out", help="Folder of the dataset.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
