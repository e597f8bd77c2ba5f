"""Small synthetic pictures in the layouts in which ImageNet (ILSVRC2012) is distributed.

pictures = make()                    in memory: classes, names and JPEG files
archives(pictures, folder)           the three archives as image-net.org serves them
class_folders(pictures, folder)      train/WNID/*.JPEG, val/WNID/*.JPEG
kaggle(pictures, folder)             ILSVRC/Data/CLS-LOC/{train,val,test}, LOC_*.csv, LOC_*.txt
npz_files(pictures, folder)          train_data_batch_1.npz ..., val_data.npz
"""

import dataclasses
import io
import pathlib
import tarfile

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
# Their order by number (1 is the kit fox) is none of the order by name.
WNIDS = ("n02119789", "n01440764", "n02100735", "n01443537", "n13133613", "n15075141")
SYNSETS = [
    ("ILSVRC2012_ID", object),
    ("WNID", object),
    ("words", object),
    ("gloss", object),
    ("num_children", object),
    ("children", object),
    ("wordnet_height", object),
    ("num_train_images", object),
]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a synthetic ImageNet holds.

    Attributes:
      train: {wnid: {name of a file: its bytes}}.
      val: [(wnid, name of a file, its bytes)], in the order of the names.
    """

    train: dict[str, dict[str, bytes]]
    val: list[tuple[str, str, bytes]]


def numbers():
    """{wnid: ILSVRC2012_ID} of all 1,000 classes."""
    path = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt")
    return {wnid: n + 1 for n, wnid in enumerate(path.read_text().split())}


def make(classes=4, train=6, val=2, sides=(60, 110), seed=0):
    """Pictures of so many classes, and of each so many; every class has a colour of its own.

    Args:
      classes: at most 6.
      train, val: pictures of each class.
      sides: bounds of heights and widths.
      seed: of all that is random.
    """
    random = np.random.default_rng(seed)
    chosen = WNIDS[:classes]
    colours = dict(zip(chosen, random.integers(40, 216, (classes, 3)), strict=True))
    inside = {
        wnid: {f"{wnid}_{n * 7 + 3}.JPEG": jpeg(random, colours[wnid], sides) for n in range(train)}
        for wnid in chosen
    }
    labels = random.permutation(np.repeat(np.arange(classes), val))
    outside = [
        (chosen[c], f"ILSVRC2012_val_{n + 1:08d}.JPEG", jpeg(random, colours[chosen[c]], sides))
        for n, c in enumerate(labels)
    ]
    return Pictures(inside, outside)


def jpeg(random, colour, sides=(60, 110)):
    """The bytes of a JPEG file of smooth spots on a colour."""
    height, width = random.integers(*sides, 2, endpoint=True)
    spots = random.normal(scale=30, size=(8, 8, 3)) + colour
    image = Image.fromarray(np.clip(spots, 0, 255).astype(np.uint8))
    return encoded(image.resize((int(width), int(height)), Image.Resampling.BICUBIC))


def encoded(image, kind="jpeg", **options):
    """The bytes of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def archives(pictures, folder):
    """Writes the archives of training, validation, and the development kit; their paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inner = {f"{wnid}.tar": tar(found) for wnid, found in pictures.train.items()}
    (folder / TRAIN).write_bytes(tar(inner))
    (folder / VAL).write_bytes(tar({name: content for _, name, content in pictures.val}))
    (folder / DEVKIT).write_bytes(devkit(pictures))
    return folder / TRAIN, folder / VAL, folder / DEVKIT


def tar(contents, mode="w"):
    """The bytes of a tar archive of {name: bytes}, as GNU tar writes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def devkit(pictures):
    """The bytes of the development kit: synsets, and the classes of validation."""
    known = numbers()
    truth = "".join(f"{known[wnid]}\n" for wnid, _, _ in pictures.val)
    top = "ILSVRC2012_devkit_t12"
    contents = {
        f"{top}/readme.txt": b"Synthetic.\n",
        f"{top}/data/meta.mat": meta(pictures),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }
    return tar(contents, "w:gz")


def meta(pictures):
    """The bytes of meta.mat: the 1,000 classes by number, and nodes above them."""
    rows = []
    for wnid, number in sorted(numbers().items(), key=lambda pair: pair[1]):
        count = len(pictures.train.get(wnid, ()))
        rows.append((number, wnid, words(wnid), "a class", 0, np.zeros(0), 0, count))
    above = np.arange(1, 1001)
    rows.append((1001, "n00001740", "entity", "all of them", 1000, above, 1, 0))
    synsets = np.zeros((len(rows), 1), SYNSETS)
    for n, row in enumerate(rows):
        synsets[n, 0] = tuple(row)
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": synsets})
    return file.getvalue()


def words(wnid):
    """What a class of meta.mat is called."""
    return f"thing {wnid[1:]}, synthetic {wnid}"


def class_folders(pictures, folder):
    """Writes train/WNID/*.JPEG and val/WNID/*.JPEG."""
    folder = pathlib.Path(folder)
    for wnid, found in pictures.train.items():
        for name, content in found.items():
            _write(folder / "train" / wnid / name, content)
    for wnid, name, content in pictures.val:
        _write(folder / "val" / wnid / name, content)
    return folder


def kaggle(pictures, folder):
    """Writes the folder that Kaggle distributes; test pictures are of no class."""
    folder = pathlib.Path(folder)
    images = folder / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid, found in pictures.train.items():
        for name, content in found.items():
            _write(images / "train" / wnid / name, content)
    lines = ["ImageId,PredictionString\n"]
    for wnid, name, content in reversed(pictures.val):
        _write(images / "val" / name, content)
        stem = name.removesuffix(".JPEG")
        lines.append(f"{stem},{wnid} 10 10 50 50 {wnid} 1 1 9 9 \n")
        _write(images / "test" / name.replace("val", "test"), content)
        annotation = folder / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / f"{stem}.xml"
        _write(
            annotation, f"<annotation><object><name>{wnid}</name></object></annotation>".encode()
        )
    _write(folder / "LOC_val_solution.csv", "".join(lines).encode())
    mapping = "".join(f"{wnid} {words(wnid)}\n" for wnid in sorted(numbers()))
    _write(folder / "LOC_synset_mapping.txt", mapping.encode())
    return folder


def npz_files(pictures, folder, batches=2, size=64):
    """Writes the npz files of downsampled pictures, [N, 3 * size * size] and labels from 1."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    train = [(w, content) for w, found in pictures.train.items() for content in found.values()]
    order = np.random.default_rng(1).permutation(len(train))
    paths = []
    for number, part in enumerate(np.array_split(order, batches), 1):
        paths.append(folder / f"train_data_batch_{number}.npz")
        data, labels = _planar([train[n] for n in part], size)
        np.savez(paths[-1], data=data, labels=labels, mean=data.mean(0))
    data, labels = _planar([(wnid, content) for wnid, _, content in pictures.val], size)
    np.savez(folder / "val_data.npz", data=data, labels=labels)
    return [*paths, folder / "val_data.npz"]


def _planar(chosen, size):
    known, rows = numbers(), []
    for _, content in chosen:
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        image = np.asarray(picture.resize((size, size), Image.Resampling.BOX))
        rows.append(image.transpose(2, 0, 1).reshape(-1))
    return np.stack(rows), np.array([known[wnid] for wnid, _ in chosen])


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
