"""Settings of evaluation: which metrics there are, and what is measured while a network trains."""

from typing import Annotated, Literal

from jaxdiff.config.fields import Range, settings, shown
from jaxdiff.config.guidance import GUIDES, Guidance
from jaxdiff.config.samplers import Sampler
from jaxdiff.errors import UserError

# Of samples against real images; docs/evaluation.md has the equations.
METRICS = (
    "fid",
    "sfid",
    "is",
    "kid",
    "fd",
    "fd_infinity",
    "precision",
    "recall",
    "precision_open",
    "recall_open",
    "density",
    "coverage",
    "mss",
    "vendi",
)


@settings(kind="evaluation", section="evaluation")
class EvaluationConfig:
    """How samples are measured during training, every `training.evaluate_every` steps.

    Attributes:
      metrics: what is measured.
      num_samples: number of samples of the EMA; values compare at the same number only.
      sampler: how they are sampled; None: as `sampling` says.
      guidance: how they are guided, such as `(CFG(2),)`; empty: not at all.
      features: the network whose features are compared, `NAME[:FRONT_END]`; or a classifier's run.
      weights: folder of its weights; empty: $JAXDIFF_WEIGHTS.
      reference: split of the run's data that samples are compared with.
      batch_size: number of samples at once, over all devices together.
    """

    metrics: tuple[Literal[*METRICS], ...] = ("fd", "precision", "recall")
    num_samples: Annotated[int, Range(2, 2**31 - 1)] = 2000
    sampler: Sampler | None = None
    guidance: tuple[Guidance, ...] = ()
    features: str = "efficientnet-lite0"
    weights: str = ""
    reference: str = "train"
    batch_size: Annotated[int, Range(1, 2**31 - 1)] = 250

    def check(self):
        """Raises UserError without metrics, for one given twice, and for guides in memory."""
        if not self.metrics:
            raise UserError(
                "evaluation.metrics is empty: name at least one, such as fd, or set "
                "training.evaluate_every to 0."
            )
        if len(set(self.metrics)) < len(self.metrics):
            raise UserError(f"evaluation.metrics is {shown(self.metrics)}: give each metric once.")
        for spec in self.guidance:
            for name in GUIDES:
                network = getattr(spec, name, "")
                if not isinstance(network, str):
                    raise UserError(
                        f"evaluation.guidance has {shown(network)} as {name}, and a config can "
                        "hold names alone: give its run, such as 'runs/a@500'."
                    )
