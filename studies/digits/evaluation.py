"""How good samples of the digits are, judged by what the real digits teach.

    python -m jaxdiff.evaluation.digits --samples samples/digits

Label agreement: the share of samples that scikit-learn's SVC(gamma=0.001), trained on the real
training digits, reads as the label they were asked for. Diversity: the mean distance between two
samples of a class, as a share of that between two real digits of the class; 1 is as diverse as
the data, 0 is collapse. Neighbour: the mean distance from a sample to the nearest real training
digit of its class, as a share of that from a held-out real digit; 1 is as close as the data.
"""

from functools import lru_cache

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.errors import UserError
from jaxdiff.evaluation.scores import Real
from jaxdiff.files import local_path
from jaxdiff.sampling import finite


def score(images, labels):
    """The Score of uint8 images [N, 8, 8, 1] that were to be of the classes `labels` int [N]."""
    return _real().score(_features(images), labels)


def held_out():
    """The Score of the held-out digits."""
    return _real().held_out


@lru_cache(maxsize=1)
def _real():
    from jaxdiff.data.digits import load, split_indices
    from sklearn.svm import SVC

    images, labels = load()
    splits = {
        name: (_features(images[chosen]), labels[chosen])
        for name, chosen in split_indices(labels).items()
    }
    return Real(**splits, reader=SVC(gamma=0.001).fit(*splits["train"]))


def _features(images):
    # The scale of scikit-learn's own examples, which gamma = 0.001 belongs to.
    return images.reshape(len(images), -1) * (16 / 255)


def read_samples(path):
    """Images and labels of a folder that sample.py wrote, or of an npz file.

    Raises:
      UserError: if there are none, or they are not labelled digits.
    """
    path = results.samples_file(local_path(path, "--samples"))
    arrays = results.load(path)
    if not {"arr_0", "arr_1"} <= arrays.keys():
        raise UserError(
            f"{path} holds {', '.join(arrays)}: samples with labels are arr_0 and arr_1."
        )
    images, labels = arrays["arr_0"], arrays["arr_1"]
    if images.shape[1:] != (8, 8, 1):
        raise UserError(f"{path} holds images of {images.shape[1:]}: digits are (8, 8, 1).")
    if images.dtype != np.uint8:
        raise UserError(
            f"{path} holds arr_0 {images.dtype}, and images are uint8: give samples, not latents."
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{path} holds arr_1 {labels.dtype} {labels.shape}, where it must be the "
            f"{len(images)} labels of arr_0 as whole numbers: give a file of samples."
        )
    if not len(images) or not ((labels >= 0) & (labels < 10)).all():
        raise UserError(f"{path} holds no images, or labels that are no digits: give samples.")
    finite.refuse_marked(arrays, path)
    return images, labels


def main():
    """Prints a table."""
    result = score(
        *read_samples(cli.require("samples", flags.FLAGS.samples, "a folder of samples"))
    )
    print("class  samples  agreement  diversity")
    for c, row in enumerate(zip(result.count, result.agreement, result.diversity, strict=True)):
        print(f"{c:5d}  {row[0]:7d}  {row[1]:9.1%}  {row[2]:9.1%}")
    print(
        f"  all  {result.count.sum():7d}  {result.total_agreement:9.1%}  "
        f"{np.nanmean(result.diversity):9.1%}   lowest diversity "
        f"{np.nanmin(result.diversity):.1%}, nearest real neighbour {result.neighbour:.3f}"
    )


if __name__ == "__main__":
    flags.DEFINE_string(
        "samples", None, "Folder of samples, or an npz file: arr_0 uint8 images, arr_1 labels."
    )
    cli.run(main)
