"""Measures how well a model compresses a split of its dataset, in bits per dimension.

python -m jaxdiff.evaluation.likelihood --model runs/digits --split test
"""

from absl import flags

from jaxdiff import cli


def main():
    """Measures what the flags name."""
    values = flags.FLAGS
    model = cli.require("model", values.model, "the folder of a run, such as runs/digits")
    split = cli.require("split", values.split, "a part of the run's dataset, such as test")
    cli.use_compilation_cache()
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff.evaluation import bits
    from jaxdiff.parallel import processes

    processes.initialize(values.distributed)
    bits.run(
        bits.Request(
            model=model,
            split=split,
            out=values.out,
            steps=values.steps,
            batch_size=values.batch_size,
            seed=values.seed,
            num_images=values.num_images,
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "The run to measure: its folder, or FOLDER@STEP.")
    flags.DEFINE_string("split", None, "Of the run's dataset, such as test.")
    flags.DEFINE_string("out", None, "File of all terms; default: likelihood_* in the run's.")
    flags.DEFINE_string("steps", "", "Such as 250, ddim25 or 25,50; default: all.")
    flags.DEFINE_integer("batch_size", 128, "How many at once, over all devices.")
    flags.DEFINE_integer("seed", 0, "Image n has the same noise in every batch size.")
    flags.DEFINE_integer("num_images", None, "The first so many of the split; default: all.")
    flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")
    cli.run(main)
