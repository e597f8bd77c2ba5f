"""The PyTorch side of benchmarks/peers.py, in a process of its own.

    python benchmarks/peer_torch.py '{"contender": "guided-diffusion", "source": PATH, ...}'

A training step is guided-diffusion's own for one device, from its parts: timesteps drawn by its
sampler, its training losses, backward pass, its trainer's norms and AdamW, and one average. Of its
TrainLoop it leaves out logging and what many devices need.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests, cpu_seconds


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

        def forward(self, x, timesteps, y):
            return self.unet(x, timesteps, class_labels=y).sample

    return Called()


def batch(options, size):
    """(x, timesteps, labels): images in [-1, 1] made up on the spot."""
    import torch

    side = options["image_size"]
    x = torch.rand(size, options["in_channels"], side, side) * 2 - 1
    return x, torch.randint(0, 1000, (size,)), torch.randint(0, options["num_classes"], (size,))


def step_of(model, called, x, labels):
    """A function that takes a training step of `model`, which is called as `called`."""
    import copy

    import torch
    from guided_diffusion import logger
    from guided_diffusion.fp16_util import MixedPrecisionTrainer
    from guided_diffusion.nn import update_ema
    from guided_diffusion.resample import UniformSampler
    from guided_diffusion.script_util import create_gaussian_diffusion

    logger.Logger.CURRENT = logger.Logger(dir=None, output_formats=[])  # its own makes a folder
    diffusion = create_gaussian_diffusion(noise_schedule="cosine")
    sampler, trainer = UniformSampler(diffusion), MixedPrecisionTrainer(model=model)
    average = copy.deepcopy(trainer.master_params)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=1e-4, weight_decay=0.0)

    def step():
        trainer.zero_grad()
        t, weights = sampler.sample(len(x), x.device)
        losses = diffusion.training_losses(called, x, t, model_kwargs={"y": labels})
        trainer.backward((losses["loss"] * weights).mean())
        trainer.optimize(optimizer)
        update_ema(average, trainer.master_params, rate=0.9999)

    return step


def ready(spec):
    """What `answer_requests` asks for."""
    import torch

    sys.path.insert(0, spec["source"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = spec["options"]
    make = diffusers if spec["contender"] == "diffusers" else guided_diffusion
    model = make(options)
    model.train()
    called = torch.compile(model) if spec["contender"].endswith("compiled") else model
    x, t, labels = batch(options, spec["batch_size"])

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
        "step": step_of(model, called, x, labels),
        "outputs": outputs,
    }
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "version": f"torch {torch.__version__}"}, functions


def write_outputs(functions, file):
    """Writes the network's weights, an input and its output to an npz file."""
    import numpy as np

    np.savez(file, **functions["outputs"]())
    return {}


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {"time": cpu_seconds, "outputs": write_outputs},
    )
