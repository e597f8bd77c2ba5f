"""Samples a run: python sample.py --model runs/digits --num_samples 100 --out samples/digits."""

from absl import flags

from jaxdiff import cli

MODEL = flags.DEFINE_string("model", None, "The run to sample: its folder, or FOLDER@STEP.")
OUT = flags.DEFINE_string("out", None, "Folder of the results.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "How many samples; default: 64.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "How many at once, over all devices.")
SEED = flags.DEFINE_integer("seed", 0, "Sample n of a seed is the same in every batch size.")
CLASSES = flags.DEFINE_string("classes", None, "Such as 0,3,5-9, taken in turn; default: all.")
SAMPLER = flags.DEFINE_enum("sampler", None, ["ddpm", "ddim"], "Default: the run's.")
STEPS = flags.DEFINE_string("steps", None, "Such as 250, ddim25 or 25,50; default: the run's.")
ETA = flags.DEFINE_float("eta", None, "Noise of ddim, 0 to 1; default: the run's.")
CLIP = flags.DEFINE_bool("clip", None, "Confine predicted images to [-1, 1]; default: the run's.")
CLASSIFIER = flags.DEFINE_string("classifier", None, "Run of a noisy classifier that guides.")
CLASSIFIER_SCALE = flags.DEFINE_float("classifier_scale", 1.0, "How hard it guides; 0: not.")
LATENTS = flags.DEFINE_string("latents", None, "What to start from, as encoding wrote it.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")


def main():
    model = cli.require("model", MODEL.value, "the folder of a run, such as runs/digits")
    out = cli.require("out", OUT.value, "a folder such as samples/digits")
    cli.use_compilation_cache()
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff.parallel import processes
    from jaxdiff.sampling import job

    processes.initialize(DISTRIBUTED.value)
    job.run(
        job.Request(
            model=model,
            out=out,
            num_samples=NUM_SAMPLES.value,
            batch_size=BATCH_SIZE.value,
            seed=SEED.value,
            classes=CLASSES.value,
            sampler=SAMPLER.value,
            steps=STEPS.value,
            eta=ETA.value,
            clip=CLIP.value,
            classifier=CLASSIFIER.value,
            classifier_scale=CLASSIFIER_SCALE.value,
            latents=LATENTS.value,
        )
    )


if __name__ == "__main__":
    cli.run(main)
