"""What a network is trained for: to denoise, or to classify noisy images."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Condition


@dataclasses.dataclass(frozen=True)
class Objective:
    """A training loss of one network.

    Attributes:
      terms: names of what `losses` returns for each sample; `loss` is minimised.
      losses: (params, examples) -> (terms, quartile): a dict of [B], and the quarter of the noise
        levels, 0 (clean) to 3, that each sample's falls in. Examples are a dict of arrays [B, ...]:
        x0 in [-1, 1], label, the process's draws, and dropout keys.
      constrain: the network's, see Network.
    """

    terms: tuple[str, ...]
    losses: Callable
    constrain: Callable


def of_config(config, network, process):
    """The objective of a run."""
    if config.model.kind == "classifier":
        return classification(network, process, config.model.dropout)
    objective = denoising(network, process, config.model.dropout)
    return uncertain(objective, network) if config.diffusion.uncertainty else objective


def denoising(network, process, drop_rate):
    """The process's own loss of a denoising network."""

    def losses(params, examples):
        condition = Condition(network.embed(params, examples["label"]))

        def apply(x, time, condition):
            return network.apply(
                params,
                x,
                time,
                condition.embedding,
                low_res=examples.get("low_res"),
                drop_rate=drop_rate,
                drop_keys=examples["dropout"],
            )

        return process.losses(apply, examples["x0"], condition, examples["draws"])

    return Objective(process.terms, losses, network.constrain)


def uncertain(objective, network):
    """Another objective with learned weights of the noise levels, for EDM's process.

        loss = e^-u weighted + u,   u = u(ln(sigma) / 4), from a head of the network

    with `weighted` the other's loss, which stays among the terms as runs are compared by it. The
    loss is least where e^u = E[weighted], so every noise level counts alike, however large its
    error (Karras et al. 2023, arXiv:2312.02696, appendix). At u = 0 it is the other's.
    """

    def losses(params, examples):
        terms, quartile = objective.losses(params, examples)
        u = network.uncertainty(params, jnp.log(examples["draws"]["sigma"]) / 4)
        weighted = terms["loss"]
        return {**terms, "loss": jnp.exp(-u) * weighted + u, "weighted": weighted}, quartile

    return Objective((*objective.terms, "weighted"), losses, objective.constrain)


def classification(network, process, drop_rate):
    """Cross-entropy on x_t ~ q(x_t | x_0) (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4).

    Beside the loss, the shares of samples whose label is the likeliest, and among the five.
    """

    def losses(params, examples):
        x, time, quartile = process.noisy(examples["x0"], examples["draws"])
        logits = network.apply(params, x, time, drop_rate=drop_rate, drop_keys=examples["dropout"])
        label = examples["label"][:, None]
        true = jnp.take_along_axis(logits, label, axis=1)
        rank = (logits > true).sum(1)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), label, axis=1)[:, 0]
        terms = {"loss": -log_p, "top1": rank < 1, "top5": rank < 5}
        return {name: value.astype(jnp.float32) for name, value in terms.items()}, quartile

    return Objective(("loss", "top1", "top5"), losses, network.constrain)
