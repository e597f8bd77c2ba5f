"""One equation for every guidance method.

    D = R( D_main + sum_i (w_i - 1) * U_i(D_main - D_i),  D_main )          (1)
    g = k * grad_x log p(y | x, s)                                          (2)

D are predictions of the clean sample. A reference D_i is the weaker prediction that guidance
extrapolates away from: the main network under the null condition (classifier-free guidance, Ho &
Salimans 2022, arXiv:2207.12598) or with a random label (independent condition guidance, Sadat et
al. 2024, arXiv:2407.02687), or a worse version of it (autoguidance, Karras et al. 2024,
arXiv:2406.02507), under the same or the null condition. g is classifier guidance (Dhariwal &
Nichol 2021, arXiv:2105.05233); how it enters a step is the sampler's choice.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Denoiser
from jaxdiff.guidance.combiners import Linear, rescale
from jaxdiff.models.condition import Condition, Dropout


@dataclasses.dataclass(frozen=True)
class NetworkBranch:
    """A network and its condition.

    Attributes:
      denoiser: the network's.
      condition: (i, keys [B]) -> Condition at step i; see jaxdiff.guidance.conditions.
      dropout: (i, keys [B]) -> Dropout at step i, or None.
    """

    denoiser: Denoiser
    condition: Callable[[jax.Array, jax.Array], Condition] = lambda i, keys: Condition()
    dropout: Callable[[jax.Array, jax.Array], Dropout | None] = lambda i, keys: None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidanceParams:
    """The numbers of equations (1) and (2): all traced, so that other numbers compile nothing.

    Attributes:
      weights: [references, N] float32, each w_i at each step; 1 disables the reference.
      scales: [N] float32, k at each step; 0 disables the classifier. None without one.
      combiner: U, Linear or Apg, the same for all references.
      rescale: phi in [0, 1], of R; None to leave R out.
    """

    weights: jax.Array
    scales: jax.Array | None = None
    combiner: Any = dataclasses.field(default_factory=Linear)
    rescale: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What is drawn and decided once a step, and kept by a second-order sampler's corrector.

    Attributes:
      conditions: a (Condition, Dropout or None) of the main network, and of each reference that is
        evaluated.
      weights: of those references.
      scale: of the classifier; None where it is not evaluated.
    """

    conditions: tuple[tuple[Condition, Dropout | None], ...]
    weights: tuple[jax.Array, ...]
    scale: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Equations (1) and (2), over steps in which the same networks are evaluated.

    Attributes:
      main: the network that is guided.
      references: D_i. None: no guidance.
      params: needed with references or a gradient.
      gradient: (x, level) -> grad_x log p(y | x, level), such as `label_gradient`; or None.
      active: indices of the references that are evaluated; None: all.
      classifier_active: whether the gradient is evaluated.
      together: whether predictions of one network for several conditions come from one batch.
    """

    main: NetworkBranch
    references: tuple[NetworkBranch, ...] = ()
    params: GuidanceParams | None = None
    gradient: Callable[..., jax.Array] | None = None
    active: tuple[int, ...] | None = None
    classifier_active: bool = True
    together: bool = False

    @property
    def _active(self):
        return range(len(self.references)) if self.active is None else self.active

    @property
    def _branches(self):
        """The main network's and the active references', in that order."""
        return [self.main, *(self.references[r] for r in self._active)]

    def init(self, shape):
        """State carried from step to step, for samples of `shape` [B, ...]; one a reference."""
        return tuple(self.params.combiner.init(shape) for _ in self.references)

    def decide(self, i, keys):
        """The Decisions that hold for all of step i, drawn from each sample's key [B]."""
        classifier_active = self.classifier_active and self.gradient is not None
        return Decisions(
            conditions=tuple((b.condition(i, keys), b.dropout(i, keys)) for b in self._branches),
            weights=tuple(self.params.weights[r, i] for r in self._active),
            scale=self.params.scales[i] if classifier_active else None,
        )

    def denoise(self, x, level, state, decisions):
        """The guided Prediction at x [B, ...], and the next state.

        All of it but x0, such as a learned variance, is the main network's.
        """
        main, *others = self._predictions(x, level, decisions)
        state = list(state)
        guided = main.x0
        for r, other, weight in zip(self._active, others, decisions.weights, strict=True):
            added, state[r] = self.params.combiner.combine(main.x0 - other.x0, main.x0, state[r])
            guided = guided + (weight - 1) * added
        if others and self.params.rescale is not None:
            guided = rescale(guided, main.x0, self.params.rescale)
        prediction = dataclasses.replace(main, x0=guided)
        if decisions.scale is not None:
            score = decisions.scale * self.gradient(x, level)
            prediction = dataclasses.replace(prediction, classifier_score=score)
        return prediction, tuple(state)

    def _predictions(self, x, level, decisions):
        denoisers, conditions = [b.denoiser for b in self._branches], decisions.conditions
        if not self.together:
            return [d(x, level, *c) for d, c in zip(denoisers, conditions, strict=True)]
        predictions = {}
        for denoiser in {id(d): d for d in denoisers}.values():
            own = [n for n, d in enumerate(denoisers) if d is denoiser]
            several = _in_one_batch(denoiser, x, level, [conditions[n] for n in own])
            predictions.update(zip(own, several, strict=True))
        return [predictions[n] for n in range(len(denoisers))]


def _in_one_batch(denoiser, x, level, conditions):
    """One denoiser's predictions for several conditions [B, ...] each, of a batch of B times those.

    Rows of one sample are neighbours, so that a batch that is split over devices stays so.
    """
    count = len(conditions)
    if count == 1:
        return [denoiser(x, level, *conditions[0])]

    def side_by_side(*rows):
        return jnp.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:])

    condition = jax.tree.map(side_by_side, *conditions)
    prediction = denoiser(jnp.repeat(x, count, axis=0), level, *condition)
    return [jax.tree.map(lambda a, n=n: a[n::count], prediction) for n in range(count)]
