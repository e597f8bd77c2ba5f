r"""Scores of the digits' and Fashion-MNIST's models, beside label agreement and diversity.

    python sample.py --model runs/digits --num_samples 1000 --out samples/thousand
    python sample.py --model runs/fashion_edm --num_samples 1000 --out samples/fashion
    python -m studies.evaluation.models --digits samples/thousand \
        --fashion_samples samples/fashion --fashion data/fashion --out samples/scores

Each list holds folders of samples, with commas. Features are those of EfficientNet-Lite0, of images
enlarged to 224 x 224 pixels. The reference is 1,500 training digits, and 5,000 test images of
Fashion-MNIST in the frame of black in which the model sees them. The last row of each data set is
of real images that are not in the reference: the 297 test digits, and 1,000 training images. Label
agreement and diversity are studies/scores.py's.

Writes table.json to OUT, and keeps the features there. docs/evaluation.md shows the table.
"""

import numpy as np

from jaxdiff import cli, files
from studies.evaluation.expected import METRICS

COLUMNS = (
    ("", ""),
    ("N", ",d"),
    ("M", ",d"),
    ("FD", ".2f"),
    ("KID", ".4f"),
    *((metric, ".3f") for metric in ("precision", "recall", "density", "coverage")),
    ("Vendi", ".2f"),
    ("MSS", ".4f"),
    ("label agreement", ".1%"),
    ("diversity", ".1%"),
)
FASHION = 1000  # real images of the last row
OWN = ("table.json", "features")


def digits():
    """(the reference's images, {set: (images, labels)} of real ones, what scores samples)."""
    from studies.digits import data, evaluation

    made = data.splits()
    train, test = ((made[s]["x"], made[s]["cond"]["label"]) for s in ("train", "test"))
    return train[0], {"real test digits": test}, evaluation.score


def garments(folder):
    """The same for Fashion-MNIST, of the folder of the prepared dataset."""
    from jaxdiff.config import DataConfig, Label
    from jaxdiff.data.source import open_split
    from studies import scores
    from studies.evaluation import images

    reference, _ = images.fashion(folder, "test", 5000)
    real = {"real training images": images.fashion(folder, "train", FASHION)}
    data = DataConfig(name=str(folder), image_size=32, fit="pad", channels=1)
    sources = (open_split(data, split, (Label(10),)) for split in ("train", "test"))
    judge = scores.real(*sources)
    return reference, real, lambda x, labels: judge.score(scores.rows_of(x), labels)


def row(name, real, features, images, labels, score):
    """A row of COLUMNS."""
    from studies.evaluation.features import measured

    values, result = measured(real, features, labels), score(images, labels)
    shares = float(result.total_agreement), float(np.nanmean(result.diversity))
    return [name, len(features), len(real), *(values[metric] for metric in METRICS), *shares]


def read(folder):
    """{folder: (images, labels)} of samples that have labels."""
    from jaxdiff.sampling.samples import load_samples

    samples = load_samples(folder, "label")
    return {str(folder).rsplit("/", 1)[-1]: (samples.images, samples.cond["label"])}


def _job(args):
    from jaxdiff.claims import claimed_folder
    from jaxdiff.evaluation.extractors import open_extractor
    from studies.evaluation.features import NETWORK, kept
    from studies.tables import markdown, save

    text = cli.require("out", args.out, "a folder such as samples/scores")
    out = files.parse_path(text, "--out")
    cli.start_jax(False)
    given = {"digits": args.digits, "fashion_samples": args.fashion_samples}
    settings = {**{n: list(v) for n, v in given.items()}, "fashion": args.fashion}
    cases = [("digits", args.digits, digits)] if args.digits else []
    if args.fashion_samples:
        data = cli.require("fashion", args.fashion, "a prepared dataset such as data/fashion")
        folder = files.parse_path(data, "--fashion")
        cases.append(("fashion", args.fashion_samples, lambda: garments(folder)))
    with claimed_folder(out, settings, "study.json", OWN):
        extractor, rows = open_extractor(NETWORK), []
        for case, folders, opened in cases:
            reference, sets, score = opened()
            real = kept(out / "features", f"{case}_reference", reference, extractor)
            samples = {}
            for each in folders:
                samples |= read(files.parse_path(each, "The samples"))
            for name, (images, labels) in (samples | sets).items():
                features = kept(out / "features", f"{case} {name}", images, extractor)
                rows.append(row(name, real, features, images, labels, score))
        save(out / "table.json", COLUMNS, rows)
    print(markdown(COLUMNS, rows))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "digits", tuple[str, ...], (), "Folders of samples of digits.")
    cli.add_flag(parser, "fashion_samples", tuple[str, ...], (), "Folders of Fashion samples.")
    cli.add_flag(parser, "fashion", help="Folder of the prepared Fashion-MNIST.")
    cli.add_flag(parser, "out", help="Folder of the table and the features.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
