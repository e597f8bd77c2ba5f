"""Encodes images as the noise that leads to them, for sample.py --latents.

python -m jaxdiff.sampling.encode --model runs/digits --images samples/digits --out latents.npz
"""

from absl import flags

from jaxdiff import cli


def main():
    """Encodes what the flags name."""
    values = flags.FLAGS
    model = cli.require("model", values.model, "the folder of a run, such as runs/digits")
    images = cli.require("images", values.images, "an npz file, or a folder of samples")
    out = cli.require("out", values.out, "a file such as latents.npz")
    cli.use_compilation_cache()
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff.parallel import processes
    from jaxdiff.sampling import latents

    processes.initialize(values.distributed)
    latents.run(
        latents.Request(
            model=model, images=images, out=out, steps=values.steps, batch_size=values.batch_size
        )
    )


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "The run to encode with: its folder, or FOLDER@STEP.")
    flags.DEFINE_string(
        "images", None, "An npz file, arr_0 uint8 NHWC, arr_1 labels; or a folder of samples."
    )
    flags.DEFINE_string("out", None, "The npz file of the latents.")
    flags.DEFINE_string("steps", None, "Such as 250, ddim25 or 25,50; default: the run's.")
    flags.DEFINE_integer("batch_size", 128, "How many at once, over all devices.")
    flags.DEFINE_bool("distributed", False, "Whether many hosts run this program.")
    cli.run(main)
