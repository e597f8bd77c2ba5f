"""The config of a run: its sections, checks across them, and what may change in a continued run."""

import dataclasses
from typing import Annotated

from jaxdiff.config.conditions import label_of
from jaxdiff.config.evaluation import EvaluationConfig
from jaxdiff.config.fields import OPEN, is_settings, settings
from jaxdiff.config.networks import ClassifierConfig, Network, Signature, UNetConfig
from jaxdiff.config.processes import ADM, Process
from jaxdiff.config.samplers import DDPM, Sampler
from jaxdiff.config.training import DataConfig, MeshConfig, Seed, TrainingConfig
from jaxdiff.errors import UserError

# A run may be continued with other values of these: they do not change what it computes.
FREE = (
    "training.num_steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.snapshot_every",
    "training.snapshot_dtype",
    "training.preview_every",
    "training.evaluate_every",
    "training.remat",
    "data.workers",
    "data.held_out",
    "sampling.",
    "evaluation.",
    "mesh.",
)


@settings(kind="run", section="config")
class RunConfig:
    """The config of a run: what `get_config()` of a config file returns.

    Attributes:
      seed: seed of everything random in training.
      data: the dataset.
      model: the network.
      diffusion: the noise process.
      training: how the network is trained.
      sampling: the sampler of previews, and the default of sample.py.
      evaluation: what is measured during training.
      mesh: how devices are arranged.
    """

    seed: Seed = 0
    data: Annotated[DataConfig, OPEN]
    model: Network = UNetConfig()
    diffusion: Process = ADM()
    training: TrainingConfig = TrainingConfig()
    sampling: Sampler = DDPM()
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()

    @property
    def is_classifier(self):
        """Whether the network classifies noisy images instead of denoising them."""
        return isinstance(self.model, ClassifierConfig)

    @property
    def label(self):
        """The Label that the network is conditioned on or predicts; None without one."""
        return label_of(self.model.conditions)

    @property
    def signature(self):
        """What the run asks of its network."""
        shape = self.model.codec.shape(self.data.shape)
        return Signature(
            shape=shape,
            out_channels=shape[-1] * (2 if self.diffusion.learns_variance else 1),
            null=self.diffusion.condition_dropout > 0,
            uncertainty=self.diffusion.uncertainty,
            dtype=self.training.dtype,
            remat=self.training.remat,
        )

    def check(self):
        """Raises UserError for sections that contradict each other."""
        has_both = hasattr(self.data, "shape") and hasattr(self.data, "open")
        if not (isinstance(self.data, DataConfig) or has_both):
            raise UserError(
                f"config.data is {type(self.data).__name__}: give a DataConfig, or settings with a "
                "`shape` and a method `open`."
            )
        self.model.check_shape(self.signature.shape)
        if self.training.evaluate_every:
            _check_evaluated(self)
        dropout = self.diffusion.condition_dropout
        if self.is_classifier:
            _check_classifier(self)
        elif dropout and not self.model.conditions:
            raise UserError(
                f"diffusion.condition_dropout is {dropout}, but model.conditions is empty: set it "
                "to 0, or name a condition such as Label(10)."
            )


def _check_evaluated(config):
    what = None
    if config.is_classifier:
        what = "a classifier makes no samples (its accuracy is measured with the previews)"
    elif len(config.data.shape) != 3 or config.data.shape[-1] not in (1, 3):
        what = f"only images can be measured, and the data's shape is {config.data.shape}"
    if what:
        raise UserError(
            f"training.evaluate_every is {config.training.evaluate_every}, but {what}: set it to 0."
        )


def _check_classifier(config):
    if config.diffusion.condition_dropout:
        raise UserError(
            f"diffusion.condition_dropout is {config.diffusion.condition_dropout}: a classifier is "
            "not conditioned, so set it to 0."
        )
    if not isinstance(config.diffusion, ADM):
        raise UserError(
            f"diffusion.kind is {config.diffusion.kind}: a classifier is trained on the noise of "
            "adm; use ADM()."
        )


def flatten(config, prefix=""):
    """{"section.field": value} of a config; the kind of a section is among them."""
    flat = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_settings(value):
            flat[f"{prefix}{field.name}.kind"] = value.kind
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = value
    return flat


def differences(old, new):
    """What two configs compute differently: phrases such as "seed (0 in the run, now 1)"."""
    old, new = flatten(old), flatten(new)
    return [
        f"{name} ({old.get(name)} in the run, now {new.get(name)})"
        for name in {**old, **new}
        if not name.startswith(FREE) and old.get(name) != new.get(name)
    ]


def replaced(config, values):
    """A config with other values, given as {"training.num_steps": 100}."""
    made = {}
    for name in dict.fromkeys(path.partition(".")[0] for path in values):
        inner = {
            path.partition(".")[2]: v for path, v in values.items() if path.split(".")[0] == name
        }
        made[name] = inner[""] if "" in inner else replaced(getattr(config, name), inner)
    return dataclasses.replace(config, **made)
