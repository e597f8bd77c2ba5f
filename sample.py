"""Samples a run: python sample.py --model runs/digits --num_samples 100 --out samples/digits."""

from absl import flags

from jaxdiff import cli
from jaxdiff.config import SAMPLERS

MODEL = flags.DEFINE_string(
    "model", None, "The run to sample: FOLDER[@STEP][:ema=LENGTH,dropout=RATE]."
)
OUT = flags.DEFINE_string("out", None, "Folder of the results.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", None, "How many samples; default: 64.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "How many at once, over all devices.")
SEED = flags.DEFINE_integer("seed", 0, "Sample n of a seed is the same in every batch size.")
CLASSES = flags.DEFINE_string("classes", None, "Such as 0,3,5-9, taken in turn; default: all.")
SAMPLER = flags.DEFINE_enum("sampler", None, SAMPLERS, "Default: the run's.")
STEPS = flags.DEFINE_string("steps", None, "Such as 250, ddim25 or 25,50; default: the run's.")
ETA = flags.DEFINE_float("eta", None, "Noise of ddim, 0 to 1; default: the run's.")
CHURN = flags.DEFINE_string("churn", None, "Noise put back by heun: S[,MIN,MAX,NOISE].")
SIGMA_MIN = flags.DEFINE_float("sigma_min", None, "Last noise level of EDM's grid.")
SIGMA_MAX = flags.DEFINE_float("sigma_max", None, "First noise level of EDM's grid.")
RHO = flags.DEFINE_float("rho", None, "How the levels between are spaced: 7 in EDM.")
CLIP = flags.DEFINE_bool("clip", None, "Confine predicted images to [-1, 1]; default: the run's.")
GUIDE = flags.DEFINE_multi_string("guide", [], "A worse network to be pushed away from.")
WEIGHT = flags.DEFINE_multi_float("weight", [], "How hard, for each --guide; 1: not.")
GUIDE_NULL = flags.DEFINE_multi_float("guide_null", [], "The same, the guide told no label.")
CFG = flags.DEFINE_float("cfg", None, "Weight of the model itself told no label; 1: off.")
ICG = flags.DEFINE_bool("icg", False, "With --cfg: told a random label instead of none.")
SCHEDULE = flags.DEFINE_multi_string(
    "schedule",
    [],
    "Weight over the steps: static, linear, invlinear, cosine, sine, v, lambda, clamp-linear,LEAST,"
    " clamp-cosine,LEAST, power-cosine,POWER, dynamic,TAU1,TAU2; for all references, or for each.",
)
INTERVAL = flags.DEFINE_multi_string(
    "interval", [], "LO,HI in sigma/alpha: guide there only; for all that guides, or for each."
)
CADS = flags.DEFINE_string("cads", None, "Anneal the label: TAU1,TAU2,SCALE[,PSI].")
APG = flags.DEFINE_string("apg", None, "Project what is added: ETA,MOMENTUM,NORM.")
RESCALE = flags.DEFINE_float("rescale", None, "Restore the model's own contrast: 0 to 1.")
TOGETHER = flags.DEFINE_bool(
    "together", None, "One batch for all labels that a network is told; default: not on CPUs."
)
CLASSIFIER = flags.DEFINE_string("classifier", None, "Run of a noisy classifier that guides.")
CLASSIFIER_SCALE = flags.DEFINE_float(
    "classifier_scale", None, "Scale of its gradient; default: 1; 0 disables it."
)
LOW_RES = flags.DEFINE_string("low_res", None, "Samples to enlarge, by a super-resolution model.")
LATENTS = flags.DEFINE_string("latents", None, "What to start from, as encoding wrote it.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")


def main():
    model = cli.require("model", MODEL.value, "the folder of a run, such as runs/digits")
    out = cli.require("out", OUT.value, "a folder such as samples/digits")
    cli.use_compilation_cache()
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff.parallel import processes
    from jaxdiff.sampling import run_sampling

    processes.initialize(DISTRIBUTED.value)
    run_sampling.run(
        run_sampling.Request(
            model=model,
            out=out,
            num_samples=NUM_SAMPLES.value,
            batch_size=BATCH_SIZE.value,
            seed=SEED.value,
            classes=CLASSES.value,
            sampler=SAMPLER.value,
            steps=STEPS.value,
            eta=ETA.value,
            churn=CHURN.value,
            sigma_min=SIGMA_MIN.value,
            sigma_max=SIGMA_MAX.value,
            rho=RHO.value,
            clip=CLIP.value,
            guide=tuple(GUIDE.value),
            weight=tuple(WEIGHT.value),
            guide_null=tuple(GUIDE_NULL.value),
            cfg=CFG.value,
            icg=ICG.value,
            schedule=tuple(SCHEDULE.value),
            interval=tuple(INTERVAL.value),
            cads=CADS.value,
            apg=APG.value,
            rescale=RESCALE.value,
            together=TOGETHER.value,
            classifier=CLASSIFIER.value,
            classifier_scale=CLASSIFIER_SCALE.value,
            latents=LATENTS.value,
            low_res=LOW_RES.value,
        )
    )


if __name__ == "__main__":
    cli.run(main)
