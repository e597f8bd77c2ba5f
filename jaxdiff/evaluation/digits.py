"""How good samples of the digits are, judged by what the real digits teach.

    python -m jaxdiff.evaluation.digits --samples samples/digits

Label agreement: the share of samples that scikit-learn's SVC(gamma=0.001), trained on the real
training digits, reads as the label they were asked for. Diversity: the mean distance between two
samples of a class, as a share of that between two real digits of the class; 1 is as diverse as
the data, 0 is collapse. Neighbour: the mean distance from a sample to the nearest real training
digit of its class, as a share of that from a held-out real digit; 1 is as close as the data.
"""

import dataclasses
import pathlib

import numpy as np
from absl import flags

from jaxdiff import cli, results
from jaxdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Score:
    """What is measured for each class.

    Attributes:
      count: [10] samples asked for.
      agreement: [10] share read as the class, in [0, 1].
      diversity: [10] mean pairwise distance over the real one; NaN for fewer than two samples.
      total_agreement: share over all samples.
      neighbour: mean distance to the nearest real digit of the class, over the held-out ones'.
    """

    count: np.ndarray
    agreement: np.ndarray
    diversity: np.ndarray
    total_agreement: float
    neighbour: float


def mean_pairwise_distance(x):
    """Mean Euclidean distance between two different rows of [N, D]; NaN for fewer than two."""
    from sklearn.metrics import pairwise_distances

    count = len(x)
    return pairwise_distances(x).sum() / (count * (count - 1)) if count > 1 else np.nan


def score(images, labels):
    """Measures samples.

    Args:
      images: uint8 [N, 8, 8, 1].
      labels: int [N], the classes asked for.
    """
    from sklearn.svm import SVC

    from jaxdiff.data.digits import load, split_indices

    real_images, real_labels = load()
    splits = split_indices(real_labels)
    held_out = (_features(real_images[splits["test"]]), real_labels[splits["test"]])
    train = splits["train"]
    real, real_labels = _features(real_images[train]), real_labels[train]
    samples = _features(images)
    correct = SVC(gamma=0.001).fit(real, real_labels).predict(samples) == labels
    classes = range(10)
    return Score(
        count=np.array([(labels == c).sum() for c in classes]),
        agreement=np.array([_mean(correct[labels == c]) for c in classes]),
        diversity=np.array(
            [
                mean_pairwise_distance(samples[labels == c])
                / mean_pairwise_distance(real[real_labels == c])
                for c in classes
            ]
        ),
        total_agreement=correct.mean(),
        neighbour=_neighbour(samples, labels, real, real_labels)
        / _neighbour(*held_out, real, real_labels),
    )


def _neighbour(x, labels, real, real_labels):
    """Mean distance from rows of [N, D] to the nearest real one of the same label."""
    from sklearn.metrics import pairwise_distances_argmin_min

    nearest = [
        pairwise_distances_argmin_min(x[labels == c], real[real_labels == c])[1]
        for c in np.unique(labels)
    ]
    return np.concatenate(nearest).mean()


def _mean(values):
    return values.mean() if len(values) else np.nan


def _features(images):
    # The scale of scikit-learn's own examples, which gamma = 0.001 belongs to.
    return images.reshape(len(images), -1) * (16 / 255)


def read_samples(path):
    """Images and labels of a folder that sample.py wrote, or of an npz file.

    Raises:
      UserError: if there are none, or they are not labelled digits.
    """
    path = results.samples_file(pathlib.Path(path))
    arrays = results.load(path)
    if not {"arr_0", "arr_1"} <= arrays.keys():
        raise UserError(
            f"{path} holds {', '.join(arrays)}: samples with labels are arr_0 and arr_1."
        )
    images, labels = arrays["arr_0"], arrays["arr_1"]
    if images.shape[1:] != (8, 8, 1):
        raise UserError(f"{path} holds images of {images.shape[1:]}: digits are (8, 8, 1).")
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
