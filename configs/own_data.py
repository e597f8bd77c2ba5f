"""A starting point for your own data: images of 32 x 32 pixels with labels, an hour on a laptop.

    python -m jaxdiff.data.prepare npz train.npz test.npz --name mine --out data/mine
    python train.py --config configs/own_data.py --workdir runs/mine
    python sample.py --model runs/mine --cfg 2 --interval .25,2.1 --out samples/mine

The network and length of configs/fashion_edm.py, which took 52 minutes of one CPU core.
"""

from jaxdiff.config import EDM, DataConfig, DPMpp, Label, RunConfig, TrainingConfig, UNetConfig


def get_config():
    return RunConfig(
        data=DataConfig(
            name="data/mine",
            image_size=32,  # images of other sizes are scaled and cropped
            fit="crop",  # or "pad": framed with black, 28 x 28 to 32 x 32
            channels=1,  # or 3
            augment="none",  # or "flip", if mirrored images are as good
        ),
        model=UNetConfig(
            channels=32,
            channel_mult=(1, 1, 1),
            num_res_blocks=1,
            attention_resolutions=(8,),
            head_channels=32,
            resblock_updown=False,
            conditions=(Label(10),),  # () ignores labels; then no condition dropout
        ),
        diffusion=EDM(
            data_std=0.0,  # measured when the run begins
            condition_dropout=0.1,  # for --cfg
        ),
        training=TrainingConfig(
            num_steps=2400,
            batch_size=64,
            learning_rate=1e-3,
            warmup_steps=100,
            inverse_sqrt_after=1000,
            beta2=0.99,
            power_ema=(0.05, 0.1),  # from which averages of other lengths are rebuilt
            log_every=50,
            checkpoint_every=800,
            snapshot_every=100,  # early steps are guides: --guide runs/mine@600
            preview_every=800,
        ),
        sampling=DPMpp(steps=16),
    )
