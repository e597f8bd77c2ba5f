r"""Damages real images, and sees whether the metrics move as was written before.

    python -m studies.evaluation.damages --photographs photographs --fashion data/fashion \
        --out samples/damages

The photographs are a folder of class folders (docs/evaluation.md says which), brought to 64 x 64
pixels; Fashion-MNIST is prepared by `python -m studies.fashion.data`. Features are those of
EfficientNet-Lite0. A set of real images is damaged and compared with other real images:
360 photographs with 360, 480 Fashion images with 2,000. Each damage has three strengths; the number
of images is always the same.

Writes photographs.json and fashion.json (the values), expected.json (what they must do, from
studies/evaluation/expected.py) and damages.png to OUT, and keeps the features there.
12,000 images: 8 minutes of one CPU core. docs/evaluation.md shows the results.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxdiff import cli, files
from studies.evaluation.expected import EITHER, EXPECTED, METRICS, holds

SHARES = (0.1, 0.25, 0.5)  # of another data set
COPIES = (2, 4, 8)
DRAWS = 5  # of the images that are duplicated; values are means over them
NOISES = (5, 10, 20)
QUALITIES = (75, 50, 20)
FORMATS = ("", "", ".1f", ".4f", ".3f", ".3f", ".3f", ".3f", ".2f", ".4f", "")
HEADINGS = ("damage", "strength", *METRICS, "not as expected")
OWN = ("*.json", "damages.png", "features")


@dataclasses.dataclass(frozen=True)
class Case:
    """Real images that are damaged.

    Attributes:
      name: photographs or fashion.
      real: the reference, uint8 [M, H, W, C].
      pool, labels: other images and their classes, [P, H, W, C] and int [P].
      count: N, how many of them a set has.
      kept: for each strength of dropped classes, those that are left.
      blurs: for each strength of blur, the pixels that images are blurred through.
      others: images of the other data set in this one's shape, [N / 2, H, W, C].
      mixture: name of that damage.
    """

    name: str
    real: Any
    pool: Any
    labels: Any
    count: int
    kept: tuple
    blurs: tuple
    others: Any
    mixture: str


def photographs(folder, others):
    """The Case of the photographs; `others` are Fashion images."""
    from studies.evaluation import images

    everything, labels, _ = images.photographs(folder, 64)
    real = images.kept_classes(labels, range(12), 360)
    rest = np.setdiff1d(np.arange(len(labels)), real)
    numerous = np.argsort(-np.bincount(labels), kind="stable")
    return Case(
        name="photographs",
        real=everything[real],
        pool=everything[rest],
        labels=labels[rest],
        count=360,
        kept=(numerous[:9], numerous[:6], numerous[:3]),
        blurs=(48, 32, 16),
        others=images.like(others[:180], everything.shape[1:]),
        mixture="Fashion among photographs",
    )


def fashion(folder, others):
    """The Case of Fashion-MNIST; `others` are photographs."""
    from studies.evaluation import images

    pool, labels = images.fashion(folder, "train", 4000)
    generator = np.random.default_rng(images.SEED)
    order = generator.permutation(10)
    others = others[generator.permutation(len(others))[:240]]
    return Case(
        name="fashion",
        real=images.fashion(folder, "test", 2000)[0],
        pool=pool,
        labels=labels,
        count=480,
        kept=(order[:8], order[:5], order[:2]),
        blurs=(24, 16, 8),
        others=images.like(others, pool.shape[1:]),
        mixture="photographs among Fashion",
    )


def measure(case, featured):
    """{(damage, strength): {metric: value}} of a case, from the intact set on.

    Args:
      case: a Case.
      featured: (name, images) -> features [N, D].
    """
    from studies.evaluation import images
    from studies.evaluation.features import mean, measured

    classes = np.unique(case.labels)
    intact = images.kept_classes(case.labels, classes, case.count)
    left = [images.kept_classes(case.labels, chosen, case.count) for chosen in case.kept]
    used = np.unique(np.concatenate([intact, *left]))
    real = featured(f"{case.name}_real", case.real)
    features = np.zeros((len(case.pool), real.shape[1]), np.float32)
    features[used] = featured(f"{case.name}_pool", case.pool[used])
    others = featured(f"{case.name}_others", case.others)
    labels = case.labels[intact]

    def of(fake, labels=labels):
        return measured(real, fake, labels)

    found = {("none", ""): of(features[intact])}
    for damage, function, strengths, text in (
        ("blur", images.blur, case.blurs, "through {} pixels"),
        ("noise", images.noise, NOISES, "{} grey levels"),
        ("jpeg", images.jpeg, QUALITIES, "quality {}"),
    ):
        for strength in strengths:
            changed = function(case.pool[intact], strength)
            name = f"{case.name}_{damage}_{strength}"
            found[damage, text.format(strength)] = of(featured(name, changed))
    for chosen, rows in zip(case.kept, left, strict=True):
        text = f"{len(chosen)} of {len(classes)} classes left"
        found["dropped classes", text] = of(features[rows], case.labels[rows])
    for copies in COPIES:
        draws = [intact[images.duplicated(case.count, copies, seed)] for seed in range(DRAWS)]
        values = [of(features[rows], case.labels[rows]) for rows in draws]
        found["duplicates", f"each image {copies} times"] = mean(values)
    for share in SHARES:
        found[case.mixture, f"{share:.0%}"] = of(images.mixed(features[intact], others, share))
    return found


def by_damage(found):
    """{damage: [values of the intact set, of each strength]} of what `measure` returns."""
    intact = found["none", ""]
    damages = dict.fromkeys(damage for damage, _ in found if damage != "none")
    return {d: [intact, *(v for (name, _), v in found.items() if name == d)] for d in damages}


def rows_of(found):
    """Rows of a result file: a damage's first row names the metrics that did not do as expected."""
    wrong = {
        damage: [m for m in METRICS if holds(damage, m, [v[m] for v in values]) is False]
        for damage, values in by_damage(found).items()
    }
    rows, seen = [], {"none"}
    for (damage, strength), values in found.items():
        last = None if damage in seen else ", ".join(wrong[damage]) or "all as expected"
        name = None if damage in seen and damage != "none" else damage
        seen.add(damage)
        rows.append([name, strength, *values.values(), last])
    return rows


def expected_rows():
    """Rows of the table of what must happen: (damage, a direction for each metric)."""
    signs = {EITHER: "either"}
    return [
        [damage, *(signs.get(each[m][0], each[m][0]) for m in METRICS)]
        for damage, each in EXPECTED.items()
    ]


def draw(cases, path):
    """Each metric against the strength, a line for each damage; two rows of panels for a case."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(13, 5 * len(cases)), layout="constrained")
    panels = figure.subplots(2 * len(cases), 4, squeeze=False)
    names = {}
    for number, (name, found) in enumerate(cases.items()):
        for metric, axes in zip(METRICS, panels[2 * number : 2 * number + 2].flat, strict=True):
            for color, (damage, values) in enumerate(by_damage(found).items()):
                y = [each[metric] for each in values]
                style = {None: ":", True: "-", False: "--"}[holds(damage, metric, y)]
                axes.plot(range(4), y, style + "o", color=f"C{color}", ms=3, lw=1.2)
                names.setdefault(color, []).append(damage)
            axes.set(title=f"{metric}, {name}", xticks=range(4))
            axes.grid(alpha=0.3)
            if metric == "kid":
                axes.set_yscale("symlog", linthresh=0.01)
    for axes in panels[-1]:
        axes.set(xlabel="strength (0: intact)")
    handles = [
        Line2D([], [], color=f"C{color}", label=" or ".join(dict.fromkeys(each)))
        for color, each in names.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=80)


def _job(args):
    from jaxdiff.claims import claimed_folder
    from jaxdiff.evaluation.extractors import open_extractor
    from studies.evaluation import images
    from studies.evaluation.features import NETWORK, kept
    from studies.tables import markdown, save

    texts = {
        "photographs": "a folder of class folders",
        "fashion": "a prepared dataset such as data/fashion",
        "out": "a folder such as samples/damages",
    }
    given = {name: cli.require(name, getattr(args, name), text) for name, text in texts.items()}
    paths = {name: files.parse_path(text, f"--{name}") for name, text in given.items()}
    out = paths["out"]
    cli.start_jax(False)
    extractor = open_extractor(NETWORK)

    def featured(name, images):
        return kept(out / "features", name, images, extractor)

    settings = {name: given[name] for name in ("photographs", "fashion")}
    with claimed_folder(out, settings, "study.json", OWN):
        garments = images.fashion(paths["fashion"], "train", 180)[0]
        first = photographs(paths["photographs"], garments)
        cases = (first, fashion(paths["fashion"], first.pool))
        found = {case.name: measure(case, featured) for case in cases}
        columns = tuple(zip(HEADINGS, FORMATS, strict=True))
        for name, values in found.items():
            save(out / f"{name}.json", columns, rows_of(values))
            print(f"{name}\n{markdown(columns, rows_of(values))}")
        directions = tuple((heading, "") for heading in ("damage", *METRICS))
        save(out / "expected.json", directions, expected_rows())
        draw(found, out / "damages.png")


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "photographs", help="Folder of class folders of photographs.")
    cli.add_flag(parser, "fashion", help="Folder of the prepared Fashion-MNIST.")
    cli.add_flag(parser, "out", help="Folder of the tables, the figure and the features.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
