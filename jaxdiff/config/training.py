"""Settings of data, training and devices."""

from typing import Annotated, Literal

from jaxdiff.config.fields import Range, settings, shown
from jaxdiff.errors import UserError

STEPS = 2**31 - 1
SHORTEST_POWER_EMA = 1e-9
LONGEST_POWER_EMA = 12**-0.5  # relative width where all steps count equally: .2887
Seed = Annotated[int, Range(0, 2**31 - 1)]
Count = Annotated[int, Range(0, STEPS)]
Period = Annotated[int, Range(1, STEPS)]
Share = Annotated[float, Range(0, 1, below=True)]
Dtype = Literal["float32", "bfloat16"]


@settings(kind="dataset", section="data")
class DataConfig:
    """A dataset of images: a folder that `jaxdiff prepare` has written, or one of TFDS.

    A data kind from elsewhere is a class of settings with `shape`, `augment`, `workers`, `held_out`
    and `open(split, conditions)`, which returns a jaxdiff.data.source.Source.

    Attributes:
      name: the folder of a prepared dataset, or the name of a TFDS dataset stored as ArrayRecord.
      prepare: where `name` is empty: `module:function`, which prepares the dataset at first use and
        returns its folder.
      image_size: height and width that images are brought to.
      fit: how images of another size are converted: `crop`: scaled, and the middle cut out, as in
        ADM; `pad`: never scaled; smaller images are padded with black (28 to 32: 2 pixels on each
        side), larger ones cropped.
      channels: 1 (grey) or 3 (colour); images are converted.
      low_res_size: for super-resolution: adds the condition `image`, the image itself at this size,
        where each pixel is the mean of a square; 0: none.
      augment: `flip`: half of the images are mirrored left to right; `crop_flip`: and a square of
        .8 to 1 of the side is cut out.
      held_out: split on which the accuracy of a classifier is measured, and the loss of a
        diffusion model by `training.evaluate_every`.
      workers: number of processes that read and decode; 0: a thread does it.
    """

    name: str = ""
    prepare: str = ""
    image_size: Annotated[int, Range(1, 2**14)] = 64
    fit: Literal["crop", "pad"] = "crop"
    channels: Literal[1, 3] = 3
    low_res_size: Annotated[int, Range(0, 2**14)] = 0
    augment: Literal["none", "flip", "crop_flip"] = "none"
    held_out: str = "test"
    workers: Annotated[int, Range(0, 2**10)] = 0

    @property
    def shape(self):
        """Shape of one image: (height, width, channels)."""
        return (self.image_size, self.image_size, self.channels)

    def check(self):
        """Raises UserError without a dataset, and for a size that does not divide the image's."""
        if not (self.name or self.prepare):
            raise UserError("data.name is empty: give the folder of a dataset, or one of TFDS.")
        low_res = self.low_res_size
        if low_res and (self.image_size % low_res or self.image_size == low_res):
            raise UserError(
                f"data.low_res_size is {low_res}: it must divide data.image_size "
                f"{self.image_size}, and be smaller."
            )


@settings(kind="training", section="training")
class TrainingConfig:
    """How a network is trained.

    Attributes:
      num_steps: step to train to.
      batch_size: samples of a batch, over all devices together.
      learning_rate: peak learning rate of AdamW.
      warmup_steps: number of steps over which the learning rate rises linearly from 0.
      anneal_steps: step at which the learning rate has fallen linearly to 0; 0: it does not fall
        linearly.
      inverse_sqrt_after: step t_ref from which on the learning rate is peak / sqrt(t / t_ref); 0:
        it does not fall so.
      beta1, beta2: decay of the first and of the second moment of AdamW.
      weight_decay: weight decay of AdamW.
      clip_norm: largest global norm of the gradient; 0: not clipped.
      ema: decay of the exponential moving average of the parameters, with a warm-up.
      power_ema: relative widths sigma_rel of averages with power-function profiles, which replace
        `ema`.
      accumulate: number of parts that a batch is split into, one after the other, to save memory.
      remat: whether blocks are recomputed in the backward pass, to save memory.
      dtype: type that the network computes in; parameters are float32.
      log_every: number of steps between reports of metrics.
      checkpoint_every: number of steps between checkpoints of the training state; the last three
        are kept.
      snapshot_every: number of steps between snapshots of the EMA, which are kept permanently.
      snapshot_dtype: type that snapshots are stored in; bfloat16 takes half the space.
      preview_every: number of steps between pictures of samples, or, of a classifier, measurements
        of its accuracy.
      evaluate_every: number of steps between measurements of samples, by the section `evaluation`,
        and of the loss on `data.held_out`; 0: none.
    """

    num_steps: Period = 100_000
    batch_size: Period = 256
    learning_rate: Annotated[float, Range(0, 1e3, above=True)] = 1e-4
    warmup_steps: Count = 0
    anneal_steps: Count = 0
    inverse_sqrt_after: Count = 0
    beta1: Share = 0.9
    beta2: Share = 0.999
    weight_decay: Annotated[float, Range(0, 1e6)] = 0.0
    clip_norm: Annotated[float, Range(0, 1e9)] = 1.0
    ema: Share = 0.9999
    power_ema: Annotated[
        tuple[float, ...], Range(SHORTEST_POWER_EMA, LONGEST_POWER_EMA, below=True)
    ] = ()
    accumulate: Annotated[int, Range(1, 2**20)] = 1
    remat: bool = False
    dtype: Dtype = "float32"
    log_every: Period = 100
    checkpoint_every: Period = 5000
    snapshot_every: Period = 10_000
    snapshot_dtype: Dtype = "float32"
    preview_every: Period = 5000
    evaluate_every: Count = 0

    def check(self):
        """Raises UserError for settings that contradict each other."""
        anneal = self.anneal_steps
        if anneal and not self.warmup_steps < anneal:
            raise UserError(
                f"training.anneal_steps is {anneal}: it must be above training.warmup_steps "
                f"{self.warmup_steps}."
            )
        if anneal and self.num_steps > anneal:
            raise UserError(
                f"training.num_steps is {self.num_steps}, but the learning rate is 0 from "
                f"training.anneal_steps {anneal} on: train no longer than that."
            )
        if anneal and self.inverse_sqrt_after:
            raise UserError(
                f"training.anneal_steps is {anneal} and training.inverse_sqrt_after is "
                f"{self.inverse_sqrt_after}: the learning rate falls in one way; set one to 0."
            )
        if not self.learning_rate * self.weight_decay < 1:
            raise UserError(
                f"training.weight_decay is {self.weight_decay}: times training.learning_rate "
                f"{self.learning_rate} it must be below 1."
            )
        if len(set(self.power_ema)) < len(self.power_ema):
            raise UserError(f"training.power_ema is {shown(self.power_ema)}: give each width once.")


@settings(kind="mesh", section="mesh")
class MeshConfig:
    """How devices are arranged.

    Attributes:
      fsdp: number of devices that parameters are split over; batches are split over all devices.
    """

    fsdp: Annotated[int, Range(1, 2**20)] = 1
