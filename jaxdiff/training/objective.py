"""What a network is trained for: to denoise, or to classify noisy images.

A network kind from elsewhere has an objective of its own if its settings have a method
`objective(network, process)`, which returns an Objective.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiff.config import ClassifierConfig
from jaxdiff.diffusion.denoiser import per_sample
from jaxdiff.models.condition import Dropout


@dataclasses.dataclass(frozen=True)
class Objective:
    """A training loss of one network.

    Attributes:
      terms: names of what `losses` returns for each sample; `loss` is minimized.
      losses: (params, examples) -> (terms, quartile): a dict of [B], and the quarter of the noise
        levels, 0 (clean) to 3, that each sample's is in. Examples are a dict of

          x0        [B, ...] float32, as the codec encodes the data
          cond      {name: [B, ...]}, by the names of the model's conditions
          drop      [B] bool, whose conditions are replaced by the null condition; may be missing
          draws     what the process drew
          dropout   [B] keys; may be missing: there is no dropout then
    """

    terms: tuple[str, ...]
    losses: Callable


def objective_of(config, network, process):
    """The objective of a run."""
    model = config.model
    if hasattr(model, "objective"):
        return model.objective(network, process)
    rate = getattr(model, "dropout", 0.0)
    if isinstance(model, ClassifierConfig):
        return classification(network, process, model.label.name, rate)
    objective = denoising(network, process, rate)
    return uncertain(objective, network) if config.diffusion.uncertainty else objective


def denoising(network, process, rate=0.0):
    """The process's own loss of a denoising network; `rate` is that of dropout."""

    def losses(params, examples):
        return process.losses(
            partial(network.apply, params, dropout=_dropout(rate, examples)),
            examples["x0"],
            _condition(network, params, examples),
            examples["draws"],
        )

    return Objective(process.terms, losses)


def _dropout(rate, examples):
    return Dropout(rate, examples["dropout"]) if rate and "dropout" in examples else None


def _condition(network, params, examples):
    """The Condition of each sample: embedded, or the null condition where it is dropped."""
    condition = network.embed(params, examples["cond"])
    if "drop" not in examples:
        return condition
    null, drop = network.null(params, examples["cond"]), examples["drop"]
    return jax.tree.map(lambda n, c: jnp.where(per_sample(drop, c), n, c), null, condition)


def uncertain(objective, network):
    """Another objective with learned weights of the noise levels, for EDM's process.

        loss = e^-u weighted + u,   u = u(ln(sigma) / 4), from a head of the network

    with `weighted` the other's loss, which stays among the terms as runs are compared by it. The
    loss is least where e^u = E[weighted], so every noise level counts equally, however large its
    error (Karras et al. 2023, arXiv:2312.02696, appendix). At u = 0 it is the other's.
    """

    def losses(params, examples):
        terms, quartile = objective.losses(params, examples)
        u = network.uncertainty(params, jnp.log(examples["draws"]["sigma"]) / 4)
        weighted = terms["loss"]
        return {**terms, "loss": jnp.exp(-u) * weighted + u, "weighted": weighted}, quartile

    return Objective((*objective.terms, "weighted"), losses)


def classification(network, process, label="label", rate=0.0):
    """Cross-entropy on x_t ~ q(x_t | x_0) (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4).

    Beside the loss, the shares of samples whose label is the likeliest, and among the five.

    Args:
      network: a classifier.
      process: of its noise.
      label: name of the label in `cond`.
      rate: of dropout.
    """

    def losses(params, examples):
        x, time, quartile = process.noisy(examples["x0"], examples["draws"])
        logits = network.apply(params, x, time, dropout=_dropout(rate, examples))
        true_class = examples["cond"][label][:, None]
        true = jnp.take_along_axis(logits, true_class, axis=1)
        rank = (logits > true).sum(1)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), true_class, axis=1)[:, 0]
        terms = {"loss": -log_p, "top1": rank < 1, "top5": rank < 5}
        return {name: value.astype(jnp.float32) for name, value in terms.items()}, quartile

    return Objective(("loss", "top1", "top5"), losses)
