"""The PyTorch side of benchmarks/peers.py and benchmarks/accelerator.py, in its own process.

    python benchmarks/peer_torch.py '{"contender": "guided-diffusion", "source": PATH, ...}'

A training step is guided-diffusion's own for one device, from its parts: timesteps drawn by its
sampler, its training losses, backward pass, its trainer's norms and AdamW, and one average. Of its
TrainLoop it leaves out logging and what many devices need.

Of the process's specification, beside the contender and the source: options, arguments of
UNetModel; batch_size; precision, "float32", "float16" (guided-diffusion's own) or "bfloat16"
(autocast); device, "cpu", of one thread, or "cuda".
"""

import functools
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests, cpu_seconds, wall_seconds


def guided_diffusion(options):
    """Its UNetModel."""
    from guided_diffusion.unet import UNetModel

    return UNetModel(**options)


def diffusers(options):
    """UNet2DModel of the same widths, with the same arguments as guided-diffusion's."""
    import torch
    from diffusers import UNet2DModel

    rates = [2**level for level in range(len(options["channel_mult"]))]
    attends = [rate in options["attention_resolutions"] for rate in rates]
    unet = UNet2DModel(
        sample_size=options["image_size"],
        in_channels=options["in_channels"],
        out_channels=options["out_channels"],
        block_out_channels=[options["model_channels"] * m for m in options["channel_mult"]],
        layers_per_block=options["num_res_blocks"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=options["num_head_channels"],
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=options["num_classes"],
    )

    class Called(torch.nn.Module):
        """The network, called as guided-diffusion's is."""

        def __init__(self):
            super().__init__()
            self.unet = unet
            self.out_channels = options["out_channels"]

        def forward(self, x, timesteps, y):
            return self.unet(x, timesteps, class_labels=y).sample

    return Called()


def batch(options, size):
    """(x, timesteps, labels): images in [-1, 1] made up on the spot."""
    import torch

    side = options["image_size"]
    x = torch.rand(size, options["in_channels"], side, side) * 2 - 1
    return x, torch.randint(0, 1000, (size,)), torch.randint(0, options["num_classes"], (size,))


def step_of(model, called, x, labels, precision):
    """A function that takes a training step of `model`, which is called as `called`.

    Its argument is the number of parts that the batch is cut into, as the memory needs it.
    """
    import copy

    import torch
    from guided_diffusion import logger
    from guided_diffusion.fp16_util import MixedPrecisionTrainer
    from guided_diffusion.nn import update_ema
    from guided_diffusion.resample import UniformSampler
    from guided_diffusion.script_util import create_gaussian_diffusion

    logger.Logger.CURRENT = logger.Logger(dir=None, output_formats=[])  # its own makes a folder
    learns = model.out_channels == 2 * x.shape[1]
    diffusion = create_gaussian_diffusion(noise_schedule="cosine", learn_sigma=learns)
    sampler = UniformSampler(diffusion)
    trainer = MixedPrecisionTrainer(model=model, use_fp16=precision == "float16")
    average = copy.deepcopy(trainer.master_params)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=1e-4, weight_decay=0.0)
    bfloat16 = torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def step(parts=1):
        trainer.zero_grad()
        for part, own in zip(x.chunk(parts), labels.chunk(parts), strict=True):
            t, weights = sampler.sample(len(part), x.device)
            with bfloat16:  # for the backward pass too, as its attention is always recomputed
                losses = diffusion.training_losses(called, part, t, model_kwargs={"y": own})
                trainer.backward((losses["loss"] * weights).mean() / parts)
        trainer.optimize(optimizer)
        update_ema(average, trainer.master_params, rate=0.9999)
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def ready(spec):
    """What `answer_requests` asks for."""
    import torch

    sys.path.insert(0, spec["source"])
    if spec["device"] == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    options, precision = spec["options"], spec["precision"]
    make = diffusers if spec["contender"] == "diffusers" else guided_diffusion
    with torch.device(spec["device"]):
        model = make({**options, "use_fp16": precision == "float16"})
        x, t, labels = batch(options, spec["batch_size"])
    parameters = sum(p.numel() for p in model.parameters())
    model.train()
    called = torch.compile(model) if spec["contender"].endswith("compiled") else model

    def forward():
        with torch.no_grad():
            return called(x, t, labels)

    def outputs():
        # A new network's output is 0, whatever is wrong with it.
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        state = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
        arrays = {"x": x, "t": t, "labels": labels, "output": forward()}
        return {**state, **{name: value.numpy() for name, value in arrays.items()}}

    functions = {
        "forward": forward,
        "step": step_of(model, called, x, labels, precision),
        "outputs": outputs,
    }
    version = f"torch {torch.__version__}"
    device = torch.cuda.get_device_name() if spec["device"] == "cuda" else "cpu"
    return {"parameters": parameters, "version": version, "device": device}, functions


def fitted(functions, parts):
    """Halves the batch's parts until a step fits: {"parts": how many, "seconds": of all tries}."""
    import torch

    step, start = functions["step"], time.perf_counter()
    while True:
        try:
            step(parts)
            break
        except torch.OutOfMemoryError:
            parts *= 2
        torch.cuda.empty_cache()
    functions["step"] = functools.partial(step, parts)
    return {"parts": parts, "seconds": time.perf_counter() - start}


def peak_bytes(functions):
    """The most memory that tensors have taken."""
    import torch

    return {"bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None}


def write_outputs(functions, file):
    """Writes the network's weights, an input and its output to an npz file."""
    import numpy as np

    np.savez(file, **functions["outputs"]())
    return {}


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {
            "time": cpu_seconds,
            "wall": wall_seconds,
            "outputs": write_outputs,
            "fit": fitted,
            "memory": peak_bytes,
        },
    )
