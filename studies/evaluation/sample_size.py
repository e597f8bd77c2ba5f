"""How the Frechet distance and KID depend on the number of samples, on Fashion-MNIST.

    python -m studies.evaluation.sample_size --fashion data/fashion --out samples/sample_size

Draws N real training images and compares them with 5,000 test images; and the same where two of the
ten classes are left out. Ten draws each, from 7,500 images, so that those of 5,000 share most of
theirs and vary less than independent draws would: by the finite population factor (1 - N/7500)^.5,
which the table's deviations are divided by. Features are those of EfficientNet-Lite0. KID has 100
subsets of 250 at every N, and FD-infinity is of the first half of the draws.

Writes sample_size.json and sample_size.png to OUT, and keeps the features there. 12,500 images, and
20 minutes of one CPU core. docs/evaluation.md shows the results.
"""

from typing import Annotated

import numpy as np

from jaxdiff import cli, files
from jaxdiff.config import Range

SIZES = (250, 500, 1000, 2500, 5000)
POOL, REFERENCE = 7500, 5000
DRAWS = 10
FEWEST = 1000  # samples from which FD-infinity is extrapolated
KID_SIZE = 250
LEFT_OUT = 2  # classes
COLUMNS = (
    ("set", ""),
    ("N", ",d"),
    ("FD, mean (lowest to highest)", ".2f"),
    ("deviation", ".2f"),
    ("KID", ".5f"),
    ("deviation", ".5f"),
    ("FD-infinity", ".2f"),
    ("deviation", ".2f"),
)
OWN = ("sample_size.*", "features")


def measure(real, pool, draws, sizes=SIZES):
    """{N: {metric: values of the draws}} of draws from a pool against a reference.

    Args:
      real: features of the reference, [M, D].
      pool: features that are drawn from, [P, D].
      draws: how many of each size.
      sizes: N, in rising order.
    """
    from jaxdiff.evaluation.metrics import frechet, kid

    moments = frechet.Moments.of(real)
    found = {n: {"fd": [], "kid": [], "fd_infinity": []} for n in sizes}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(pool))
        for n, values in found.items():
            rows = pool[order[:n]]
            values["fd"].append(frechet.distance(moments, frechet.Moments.of(rows)))
            values["kid"].append(kid.kid(real, rows, size=min(n, KID_SIZE))[0])
            if n >= FEWEST and 2 * draw < draws:
                values["fd_infinity"].append(frechet.fd_infinity(moments, rows)[0])
    return found


def rows_of(name, found, population):
    """Rows of COLUMNS of what `measure` returns, from a pool of so many images."""
    rows = []
    for n, values in found.items():
        row = [name, n]
        for drawn in values.values():
            row += [_range(drawn), _deviation(drawn, n, population)] if drawn else [None, None]
        rows.append(row)
    return rows


def _range(values):
    return {"range": [float(np.mean(values)), float(min(values)), float(max(values))]}


def _deviation(values, count, population):
    """Standard deviation of independent draws, by that of draws from a finite population."""
    return float(np.std(values, ddof=1) / (1 - count / population) ** 0.5)


def draw(found, path):
    """FD, FD-infinity and KID against N, each draw a point and their means a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {"fd": "Frechet distance", "fd_infinity": "FD-infinity", "kid": "KID"}
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        for color, (name, values) in enumerate(found.items()):
            drawn = {n: each[metric] for n, each in values.items() if each[metric]}
            means = [np.mean(each) for each in drawn.values()]
            axes.plot(list(drawn), means, color=f"C{color}", lw=1, label=name)
            for n, each in drawn.items():
                axes.plot([n] * len(each), each, ".", color=f"C{color}", ms=4)
        axes.set(xscale="log", title=title, xlabel="N")
        axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.axhline(0, color="0.5", lw=0.7)
    panels[0].legend(fontsize=8)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=90)


def _job(args):
    from jaxdiff.claims import claimed_folder
    from jaxdiff.evaluation.extractors import open_extractor
    from studies.evaluation import images
    from studies.evaluation.features import NETWORK, kept
    from studies.tables import markdown, save

    fashion = cli.require("fashion", args.fashion, "a prepared dataset such as data/fashion")
    text = cli.require("out", args.out, "a folder such as samples/sample_size")
    folder, out = files.parse_path(fashion, "--fashion"), files.parse_path(text, "--out")
    cli.start_jax(False)
    settings = {"fashion": fashion, "draws": args.draws}
    with claimed_folder(out, settings, "study.json", OWN):
        extractor = open_extractor(NETWORK)
        test, _ = images.fashion(folder, "test", REFERENCE)
        train, labels = images.fashion(folder, "train", POOL)
        real = kept(out / "features", "test", test, extractor)
        pool = kept(out / "features", "train", train, extractor)
        left = np.random.default_rng(images.SEED).permutation(10)[LEFT_OUT:]
        pools = {
            "all classes": pool,
            f"{LEFT_OUT} of 10 classes left out": pool[np.isin(labels, left)],
        }
        found, rows = {}, []
        for name, features in pools.items():
            found[name] = measure(real, features, args.draws)
            rows += rows_of(name, found[name], len(features))
        save(out / "sample_size.json", COLUMNS, rows)
        draw(found, out / "sample_size.png")
    print(markdown(COLUMNS, rows))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "fashion", help="Folder of the prepared Fashion-MNIST.")
    cli.add_flag(parser, "draws", Annotated[int, Range(2, 1000)], DRAWS, "Draws of each size")
    cli.add_flag(parser, "out", help="Folder of the table, the figure and the features.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
