r"""Classifies noisy ImageNet images at 64 x 64: the guide of imagenet64, 65,438,568 parameters.

    python train.py --config configs/adm/classifier64.py --workdir runs/classifier64 \
        --config.training.dtype=bfloat16

Training, the paper's: 300,000 iterations, batch 1024, learning rate 6e-4 falling linearly to 0,
weight decay 0.2. Not run here. imagenet64 has results with guidance, and scales.
"""

from configs.adm import common


def get_config():
    return common.classifier(
        64,
        300_000,
        {
            "model.num_res_blocks": 4,
            "diffusion.schedule": "cosine",
            "training.batch_size": 1024,
            "training.learning_rate": 6e-4,
            "training.weight_decay": 0.2,
        },
    )
