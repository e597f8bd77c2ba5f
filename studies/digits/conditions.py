"""CFG and CADS (arXiv:2310.17347) on conditions that are not labels: a vector, an edge image.

    python train.py --config configs/digits_vector.py --workdir runs/digits_vector
    python -m studies.digits.conditions --model runs/digits_vector --out samples/digits_vector

and the same with `edges` for `vector`. The conditions are those of 40 held-out digits, with 12
samples each; every row has the same seed, 18 Heun steps. 3 minutes of one CPU core.

Label agreement: the share of samples that a support vector machine reads as the digit that the
condition was made of. Condition error: the root mean square difference between the condition that
is made of a sample and the one that was asked for, both in [-1, 1]. Diversity: the mean distance
between two samples of one condition, as a share of that between two real digits of the class.
Nearest neighbour: the mean distance to the nearest real training digit of the class, as a share of
that from a held-out digit.

Prints a table, and writes it to OUT/table.json and a figure to OUT/conditions.png.
docs/guidance.md has both tables, and what was found.
"""

import numpy as np

from jaxdiff import cli, files
from jaxdiff.config import CADS, CFG, Heun
from jaxdiff.errors import UserError

COUNT, SAMPLES = 40, 12
WEIGHTS = (1.5, 2.0, 3.0)
SCALES = (0.25, 0.5, 1.0)
SHOWN = ("no guidance", "CFG, w 3", "CFG, w 3; CADS .4 to .9, 1")  # in the figure
HEADINGS = (
    ("", ""),
    ("label agreement", ".1%"),
    ("condition error", ".3f"),
    ("diversity", ".1%"),
    ("nearest neighbour", ".3f"),
)


def methods():
    """{method: arguments of `TrainedModel.sample`}."""
    made = {"no guidance": {}}
    for w in WEIGHTS:
        made[f"CFG, w {w:g}"] = {"guidance": [CFG(w)]}
    for s in SCALES:
        for w in WEIGHTS:
            cads = CADS(0.4, 0.9, s)
            made[f"CFG, w {w:g}; CADS .4 to .9, {s:g}"] = {"guidance": [CFG(w)], "cads": cads}
    return made


def held_out():
    """The first COUNT held-out digits, each SAMPLES times: {"x": [N, ...], "cond": {...}}."""
    from studies.digits.data import splits

    which = np.repeat(np.arange(COUNT), SAMPLES)
    test = splits()["test"]
    cond = {name: array[which] for name, array in test["cond"].items()}
    return {"x": test["x"][which], "cond": cond}


def condition_of(name, images):
    """The condition `vector` or `image` that is made of uint8 images, in [-1, 1]."""
    from studies.digits.data import edges, thumbnails

    return thumbnails(images) if name == "vector" else edges(images) / np.float32(127.5) - 1


def score(name, images, real, spreads):
    """The numbers of a row.

    Args:
      name: of the condition: vector or image.
      images: samples, uint8 [COUNT * SAMPLES, 8, 8, 1].
      real: from `held_out`.
      spreads: {label: mean distance between two real digits of the class}.
    """
    from studies.digits import evaluation
    from studies.scores import mean_pairwise_distance

    labels = real["cond"]["label"]
    found = evaluation.score(images, labels)
    error = condition_of(name, images) - condition_of(name, real["x"])
    rows = evaluation.rows_of(images).reshape(COUNT, SAMPLES, -1)
    diversity = [
        mean_pairwise_distance(each) / spreads[label]
        for each, label in zip(rows, labels[::SAMPLES], strict=True)
    ]
    rms = float(np.sqrt((error**2).mean()))
    return [float(found.total_agreement), rms, float(np.mean(diversity)), float(found.neighbour)]


def measure(model, name, rows):
    """({method: numbers}, {method: its images}) of a trained model."""
    from studies.digits import evaluation
    from studies.scores import mean_pairwise_distance

    real, (train, labels) = held_out(), evaluation.real().train
    spreads = {c: mean_pairwise_distance(train[labels == c]) for c in range(10)}
    cond = {name: condition_of(name, real["x"])}
    found, images = {}, {}
    for method, arguments in rows.items():
        common = {"cond": cond, "sampler": Heun(steps=18), "batch_size": COUNT * SAMPLES}
        images[method] = model.sample(COUNT * SAMPLES, **common, **arguments).images
        found[method] = score(name, images[method], real, spreads)
    return found, images


def draw(name, images, path, columns=12, samples=4):
    """Real digits, their conditions, and some samples of each method, a row each."""
    from matplotlib.figure import Figure

    real = held_out()["x"][::SAMPLES][:columns]
    condition = condition_of(name, real).reshape(columns, -1, 1)
    side = int(condition.shape[1] ** 0.5)
    shown = np.kron(condition.reshape(columns, side, side), np.ones((8 // side, 8 // side)))
    rows = {"real digit": real[..., 0], "condition": (shown + 1) * 127.5}
    for method, each in images.items():
        several = each.reshape(COUNT, SAMPLES, 8, 8)[:columns]
        rows |= {f"{method} ({n + 1})": several[:, n] for n in range(samples)}
    border = ((0, 0), (1, 1), (1, 1))
    tiles = [
        np.concatenate(list(np.pad(row, border, constant_values=255)), 1) for row in rows.values()
    ]
    figure = Figure(figsize=(7, 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.concatenate(tiles), "gray")
    axes.set(yticks=10 * np.arange(len(rows)) + 4.5, yticklabels=list(rows), xticks=[])
    with files.replacing(path) as file:
        figure.savefig(file, dpi=100)


def _job(args):
    import jaxdiff
    from jaxdiff.claims import claimed_folder
    from studies.tables import markdown, save

    reference = cli.require("model", args.model, "a run such as runs/digits_vector")
    text = cli.require("out", args.out, "a folder such as samples/digits_vector")
    out = files.parse_path(text, "--out")
    cli.start_jax(False)
    model = jaxdiff.load(reference)
    names = [each.name for each in model.config.model.conditions]
    if names not in (["vector"], ["image"]):
        raise UserError(
            f"--model {reference} has the conditions {', '.join(names) or 'none'}: give a run of "
            "configs/digits_vector.py or configs/digits_edges.py."
        )
    with claimed_folder(out, {"model": reference}, "study.json", ("table.json", "conditions.png")):
        found, images = measure(model, names[0], methods())
        rows = [[method, *numbers] for method, numbers in found.items()]
        save(out / "table.json", HEADINGS, rows)
        draw(names[0], {name: images[name] for name in SHOWN}, out / "conditions.png")
    print(markdown(HEADINGS, rows))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "model", help="A run of configs/digits_vector.py or digits_edges.py.")
    cli.add_flag(parser, "out", help="Folder of the table and the figure.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
