"""How good samples of the digits are, judged by the real digits.

    python -m studies.digits.evaluation --samples samples/digits

Label agreement: the share of samples that scikit-learn's SVC(gamma=0.001), trained on the real
training digits, reads as the label they were asked for. Diversity: the mean distance between two
samples of a class, as a share of that between two real digits of the class; 1 is as diverse as
the data, 0 is collapse. Neighbour: the mean distance from a sample to the nearest real training
digit of its class, as a share of that from a held-out real digit; 1 is as close as the data.

Takes 2 seconds. docs/getting_started.md has the table of the quickstart's samples.
"""

from functools import cache

import numpy as np

from jaxdiff import cli
from jaxdiff.errors import UserError


def score(images, labels):
    """The Score of uint8 images [N, 8, 8, 1] that were to be of the classes `labels` int [N]."""
    return real().score(rows_of(images), labels)


@cache
def real():
    """The real digits and the support vector machine, as a studies.scores.Real."""
    from sklearn.svm import SVC

    from studies.digits.data import splits
    from studies.scores import Real

    rows = {split: (rows_of(each["x"]), each["cond"]["label"]) for split, each in splits().items()}
    return Real(**rows, classifier=SVC(gamma=0.001).fit(*rows["train"]))


def rows_of(images):
    """Images [N, ...] uint8 as rows of numbers in [0, 16], which gamma = 0.001 belongs to."""
    return images.reshape(len(images), -1) * (16 / 255)


def read_samples(path):
    """Images uint8 [N, 8, 8, 1] and labels [N] of samples that were saved.

    Raises:
      UserError: if there are none, or they are not labelled digits.
    """
    from jaxdiff.sampling.samples import load_samples

    samples = load_samples(path)
    if samples.images.shape[1:] != (8, 8, 1) or "label" not in samples.cond:
        raise UserError(
            f"{path} holds images of {samples.images.shape[1:]} with the conditions "
            f"{', '.join(samples.cond) or 'none'}: give samples of (8, 8, 1) with the condition "
            "label."
        )
    return samples.images, samples.cond["label"]


def _job(args):
    result = score(*read_samples(cli.require("samples", args.samples, "a folder of samples")))
    print("class  samples  agreement  diversity")
    for c, row in enumerate(zip(result.count, result.agreement, result.diversity, strict=True)):
        print(f"{c:5d}  {row[0]:7d}  {row[1]:9.1%}  {row[2]:9.1%}")
    print(
        f"  all  {result.count.sum():7d}  {result.total_agreement:9.1%}  "
        f"{np.nanmean(result.diversity):9.1%}   lowest diversity "
        f"{np.nanmin(result.diversity):.1%}, nearest real neighbour {result.neighbour:.3f}"
    )


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "samples", help="Folder or npz file that sample.py wrote.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
