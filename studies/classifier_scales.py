r"""What classifier guidance does to digits: agreement with the label against diversity.

    python -m studies.classifier_scales --models runs/digits,runs/digits_unconditional \
        --classifier runs/digits_classifier --num_samples 500 --out samples/scales

Samples every model at every scale with the same seed, scores the samples as
`studies.digits.evaluation` does, prints a table, writes it to OUT/table.json, and draws it to
OUT/scales.png. Rows that OUT/scales.csv holds are not sampled again. About 3 minutes on two CPU
cores. As in the paper, the scale trades diversity for agreement: docs/classifier_guidance.md.
"""

from typing import Annotated

import numpy as np

from jaxdiff import cli, files, tables
from jaxdiff.config import ClassifierGuidance, Range

COLUMNS = {"model": str, "scale": float, "agreement": float, "diversity": float}
HEADINGS = (("model", ""), ("scale", "g"), ("label agreement", ".1%"), ("diversity", ".1%"))


def measure(models, classifier, scales, num_samples, path):
    """Rows (model, scale, agreement, diversity); diversity is the mean over the classes.

    Args:
      models: {name: trained model}.
      classifier: the trained classifier.
      scales: of its gradient.
      num_samples: of each row.
      path: of the CSV file that keeps the rows.
    """
    from studies.digits.evaluation import score

    labels = np.arange(num_samples) % 10
    kept = {(row["model"], row["scale"]): row for row in tables.read_rows(path, COLUMNS)}
    for name, model in models.items():
        for scale in scales:
            if (name, scale) in kept:
                continue
            guidance = [ClassifierGuidance(classifier, scale)]
            samples = model.sample(
                num_samples, cond={"label": labels}, guidance=guidance, batch_size=250
            )
            result = score(samples.images, labels)
            values = (name, scale, result.total_agreement, np.nanmean(result.diversity))
            kept[name, scale] = dict(zip(COLUMNS, values, strict=True))
            tables.add_row(path, kept[name, scale])
    return [list(kept[name, scale].values()) for name in models for scale in scales]


def draw(rows, path):
    """Agreement and diversity against the scale, a curve for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for model in dict.fromkeys(row[0] for row in rows):
        points = [row for row in rows if row[0] == model]
        scales = [row[1] for row in points]
        for axes, column in zip(panels, (2, 3), strict=True):
            axes.plot(scales, [row[column] for row in points], "o-", label=model)
    panels[0].set(xlabel="classifier scale", ylabel="label agreement")
    panels[1].set(xlabel="classifier scale", ylabel="diversity within a class (data: 1)")
    panels[0].legend()
    for axes in panels:
        axes.grid(alpha=0.3)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120)


def _job(args):
    import jaxdiff
    from jaxdiff.checkpoints.run import digest, resolve
    from jaxdiff.claims import claimed_folder
    from studies.tables import markdown, save

    out = files.parse_path(cli.require("out", args.out, "a folder such as samples/scales"), "--out")
    names = cli.require("models", args.models, "folders of runs, separated by commas")
    classifier = cli.require("classifier", args.classifier, "the folder of a classifier's run")
    cli.start_jax(False)
    models = {name: jaxdiff.load(name) for name in names}
    networks = {name: digest(resolve(name)) for name in (*names, classifier)}
    settings = {"classifier": classifier, "num_samples": args.num_samples, "networks": networks}
    with claimed_folder(out, settings, "scales.json", ("scales.csv", "scales.png", "table.json")):
        path = out / "scales.csv"
        rows = measure(models, jaxdiff.load(classifier), args.scales, args.num_samples, path)
        draw(rows, out / "scales.png")
        save(out / "table.json", HEADINGS, rows)
    print(markdown(HEADINGS, rows))


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "models", tuple[str, ...], (), "Runs to sample")
    cli.add_flag(parser, "classifier", help="The run of the classifier of noisy images.")
    cli.add_flag(parser, "scales", tuple[float, ...], (0, 1, 2, 5, 10), "Scales of its gradient")
    count = Annotated[int, Range(2, 10**9)]
    cli.add_flag(parser, "num_samples", count, 1000, "Number of samples of each row")
    cli.add_flag(parser, "out", help="Folder of table and figure.")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
