r"""ImageNet at 64 x 64 with labels, 295,904,454 parameters.

    python train.py --config configs/adm/imagenet64.py --workdir runs/imagenet64 \
        --config.training.dtype=bfloat16

The released checkpoint, the one whose attention has the new order:

    python -m jaxdiff.interop.openai import 64x64_diffusion.pt \
        --config configs/adm/imagenet64.py --attention_order new --out runs/imagenet64

Training, the paper's: 540,000 iterations, batch 2048, learning rate 3e-4.

Results, the paper's, not ours, without guidance: FID 2.07, sFID 4.29, precision 0.74, recall 0.63
(250 steps). Not run here. Its scale for classifier64 is 1.0.
"""

from configs.adm import common


def get_config():
    return common.unet(
        64,
        {
            "model.channels": 192,
            "model.num_res_blocks": 3,
            "model.dropout": 0.1,
            "diffusion.schedule": "cosine",
            "training.num_steps": 540_000,
            "training.batch_size": 2048,
            "training.learning_rate": 3e-4,
        },
    )
