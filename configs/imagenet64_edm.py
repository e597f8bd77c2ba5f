r"""ImageNet at 64 x 64 with labels: ADM's network under EDM's process. 295,900,164 parameters.

    python -m jaxdiff.data.prepare imagenet downloads --image_size 64 --out data/imagenet64
    python train.py --config configs/imagenet64_edm.py --workdir runs/imagenet64
    python train.py --config configs/imagenet64_edm_guide.py --workdir runs/imagenet64_guide
    python sample.py --model runs/imagenet64:ema=0.045 --guide runs/imagenet64_guide:ema=0.11 \
        --weight 1.7 --num_samples 50000 --out samples/imagenet64

The same commands on every host train together, and sample one job. docs/imagenet.md is the whole
recipe, with addresses in a bucket in the place of these folders; docs/pods.md starts it on TPU
slices, under Slurm and on Kubernetes.

For a pod. This config was not run here, and no result is claimed. Its settings are taken from:

- the network, its dropout and the share of labels for classifier-free guidance: configs/adm's
  imagenet64, without learned variance;
- noise levels ln(sigma) ~ N(-.8, 1.6^2), learned weights, beta 2, batch 2048, a ramp over 10
  million images, 1024 Mi images in all, no flips, no clipping, averages of .05 and .1: Karras et
  al. 2023 (arXiv:2312.02696) and the preset edm2-img64-s of its code;
- the fall of the learning rate from step 35,000 on (72 million images): the same preset. Its peak
  of .01 is for weights of constant magnitude; the peak here is ADM's 3e-4 for this network and
  batch, which has fallen to the 1e-4 of EDM (Karras et al. 2022, arXiv:2206.00364) at step
  315,000;
- EMA lengths and weight of the last command: autoguidance's of EDM2-S (Karras et al. 2024,
  arXiv:2406.02507), to begin a search with.

Of 32 images on each of 64 devices, 35 GiB would be kept for the backward pass (docs/benchmarks.md);
remat keeps 2.7, for a second forward pass, and mesh.fsdp 8 splits the state, so that 64 TPU v5e
(15.75 GiB each) have room to spare. docs/plan.md has other devices, and what each takes; for a
number that 8 does not divide choose another --config.mesh.fsdp.

By `python -m jaxdiff.plan`, at 40 % of the peak: 37 hours on 64 TPU v5e (2,385 chip-hours), 79 on
8 H100 (--config.mesh.fsdp=1 --config.training.accumulate=2). A snapshot every 16.8 million images
is 64 of them, of two averages in bfloat16: 76 GB; checkpoints take 24 GB beside them.

The data are ADM's resampling of ILSVRC2012. image-net.org's downsampled files, and TFDS's
imagenet_resized that is made of them, were downsampled in another way: published results are not of
those, and a model, its guide and a classifier must be trained on the same data. Classes that have
other names, or another order, are refused.
"""

from jaxdiff.config import (
    EDM,
    DataConfig,
    Heun,
    Label,
    MeshConfig,
    RunConfig,
    TrainingConfig,
    UNetConfig,
)

IMAGES = 1024 * 2**20
BATCH = 2048


def get_config():
    return RunConfig(
        data=DataConfig(name="data/imagenet64", image_size=64, held_out="validation", workers=8),
        model=UNetConfig(
            channels=192,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(32, 16, 8),
            dropout=0.1,
            conditions=(Label(1000),),
        ),
        diffusion=EDM(
            p_mean=-0.8, p_std=1.6, data_std=0.5, uncertainty=True, condition_dropout=0.1
        ),
        training=TrainingConfig(
            num_steps=IMAGES // BATCH,
            batch_size=BATCH,
            learning_rate=3e-4,
            warmup_steps=10_000_000 // BATCH,
            inverse_sqrt_after=35_000,
            beta2=0.99,
            clip_norm=0.0,
            power_ema=(0.05, 0.1),
            remat=True,
            dtype="bfloat16",
            checkpoint_every=4096,
            snapshot_every=8192,
            snapshot_dtype="bfloat16",
            preview_every=8192,
        ),
        sampling=Heun(steps=32, clip=False),
        mesh=MeshConfig(fsdp=8),
    )
