r"""What classifier guidance does to digits: agreement with the label against diversity.

    python -m jaxdiff.evaluation.classifier_scales --models runs/digits,runs/digits_unconditional \
        --classifier runs/digits_classifier --out samples/scales

Samples every model at every scale with the same seed, scores the samples as
`jaxdiff.evaluation.digits` does, prints a table, and draws it to OUT/scales.png. Samples that are
there already are not made again.
"""

import csv
import io
import pathlib

import numpy as np
from absl import flags
from jaxdiff.evaluation.digits import read_samples, score

from jaxdiff import cli, results
from jaxdiff.files import local_path


def measure(models, classifier, scales, num_samples, sampler, out):
    """Rows (model, scale, agreement, diversity); diversity is the mean over the classes."""
    from jaxdiff.sampling import run_sampling

    rows = []
    for model in models:
        for scale in scales:
            folder = out / f"{pathlib.Path(model).name}-{scale:g}"
            request = run_sampling.Request(
                model=model,
                out=str(folder),
                num_samples=num_samples,
                batch_size=250,
                sampler=sampler,
                classifier=classifier,
                classifier_scale=scale,
            )
            run_sampling.run(request)
            result = score(*read_samples(folder))
            rows.append((model, scale, result.total_agreement, np.nanmean(result.diversity)))
    return rows


def draw(rows, path):
    """Agreement and diversity against the scale, a curve for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for model in dict.fromkeys(row[0] for row in rows):
        points = [row for row in rows if row[0] == model]
        scales = [row[1] for row in points]
        for axes, column in zip(panels, (2, 3), strict=True):
            values = [row[column] for row in points]
            axes.plot(scales, values, "o-", label=pathlib.Path(model).name)
    panels[0].set(xlabel="classifier scale", ylabel="label agreement")
    panels[1].set(xlabel="classifier scale", ylabel="diversity within a class (data: 1)")
    panels[0].legend()
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    """Prints the table, and writes it beside the figure."""
    values = flags.FLAGS
    cli.use_compilation_cache()
    out = local_path(cli.require("out", values.out, "a folder such as samples/scales"), "--out")
    classifier = cli.require("classifier", values.classifier, "the folder of a classifier's run")
    models = cli.require("models", values.models, "folders of runs, separated by commas")
    scales = [cli.number("scales", text) for text in values.scales]
    settings = {"classifier": classifier, "num_samples": values.num_samples}
    settings["sampler"] = values.sampler
    with results.claimed_folder(out, settings, "scales.json", ("scales.csv", "scales.png")):
        rows = measure(models, classifier, scales, values.num_samples, values.sampler, out)
        text = io.StringIO()
        csv.writer(text).writerows([("model", "scale", "agreement", "diversity"), *rows])
        results.replace(out / "scales.csv", lambda file: file.write(text.getvalue().encode()))
        results.replace(out / "scales.png", lambda file: draw(rows, file))
    print("| model | scale | label agreement | diversity |\n| --- | --- | --- | --- |")
    for model, scale, agreement, diversity in rows:
        print(f"| {pathlib.Path(model).name} | {scale:g} | {agreement:.1%} | {diversity:.1%} |")


if __name__ == "__main__":
    flags.DEFINE_list("models", [], "Runs to sample.")
    flags.DEFINE_string("classifier", None, "The noisy classifier's run.")
    flags.DEFINE_list("scales", ["0", "1", "2", "5", "10"], "Scales of its gradient.")
    flags.DEFINE_integer("num_samples", 1000, "How many at each scale.", lower_bound=2)
    flags.DEFINE_enum("sampler", None, ["ddpm", "ddim", "heun", "dpmpp"], "Default: the run's.")
    flags.DEFINE_string("out", None, "Folder of samples, table and figure.")
    cli.run(main)
