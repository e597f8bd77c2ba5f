"""One equation for every guidance method.

    D = R( D_main + sum_i (w_i - 1) * U_i(D_main - D_i),  D_main )          (1)
    g = k * grad_x log p(y | x, s)                                          (2)

D are predictions of the clean sample. A reference D_i is what the main network is pushed away from:
itself with a null label (classifier-free guidance, Ho & Salimans 2022, arXiv:2207.12598) or with
a random one (independent condition guidance, Sadat et al. 2024, arXiv:2407.02687), a worse version
of itself (autoguidance, Karras et al. 2024, arXiv:2406.02507), or that with a null label. g is
classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233); where it goes is the sampler's
choice.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Condition, Denoiser
from jaxdiff.guidance.combiners import Linear, rescale


@dataclasses.dataclass(frozen=True)
class NetworkBranch:
    """A network, and what it is told.

    Attributes:
      denoiser: the network's.
      condition: (i, keys [B]) -> Condition at step i.
    """

    denoiser: Denoiser
    condition: Callable[[jax.Array, jax.Array], Condition]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GuidanceParams:
    """How hard guidance pushes, and how: everything traced, so that a change compiles nothing.

    Attributes:
      weights: [references, N] float32, each w_i at each step; 1 is off.
      scales: [N] float32, k at each step; 0 is off. None without a classifier.
      combiner: U, Linear or Apg, alike for all references.
      rescale: phi in [0, 1]; None to leave R out.
    """

    weights: jax.Array
    scales: jax.Array | None = None
    combiner: Any = dataclasses.field(default_factory=Linear)
    rescale: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What is decided once a step, and kept by a second-order sampler's corrector.

    Attributes:
      main, references: Conditions; of the references that are evaluated.
      weights: of those references.
      scale: of the classifier; None where it is not evaluated.
    """

    main: Condition
    references: tuple[Condition, ...]
    weights: tuple[jax.Array, ...]
    scale: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """Equations (1) and (2), over steps in which the same networks are evaluated.

    Attributes:
      main: the network that is guided.
      references: D_i. None: no guidance.
      strength: needed with references or a gradient.
      gradient: (x, level) -> grad_x log p(y | x, level), such as `label_gradient`; or None.
      active: indices of the references that are evaluated; None: all.
      classifier_active: whether the gradient is evaluated.
      together: predictions of one network for several conditions come from one batch.
    """

    main: NetworkBranch
    references: tuple[NetworkBranch, ...] = ()
    strength: GuidanceParams | None = None
    gradient: Callable[..., jax.Array] | None = None
    active: tuple[int, ...] | None = None
    classifier_active: bool = True
    together: bool = False

    @property
    def _active(self):
        return range(len(self.references)) if self.active is None else self.active

    def init(self, shape):
        """State carried from step to step, for samples of `shape` [B, ...]; one a reference."""
        return tuple(self.strength.combiner.init(shape) for _ in self.references)

    def decide(self, i, keys):
        """Draws and decides what holds for all of step i, from each sample's key [B]."""
        classifier_active = self.classifier_active and self.gradient is not None
        return Decisions(
            main=self.main.condition(i, keys),
            references=tuple(self.references[r].condition(i, keys) for r in self._active),
            weights=tuple(self.strength.weights[r, i] for r in self._active),
            scale=self.strength.scales[i] if classifier_active else None,
        )

    def denoise(self, x, level, state, decisions):
        """The guided Prediction at x [B, ...] and the next state.

        What is no x0 (a learned variance) is the main network's.
        """
        main, *others = self._predictions(x, level, decisions)
        state = list(state)
        guided = main.x0
        for r, other, weight in zip(self._active, others, decisions.weights, strict=True):
            push, state[r] = self.strength.combiner.combine(main.x0 - other.x0, main.x0, state[r])
            guided = guided + (weight - 1) * push
        if others and self.strength.rescale is not None:
            guided = rescale(guided, main.x0, self.strength.rescale)
        prediction = dataclasses.replace(main, x0=guided)
        if decisions.scale is not None:
            classifier_score = decisions.scale * self.gradient(x, level)
            prediction = dataclasses.replace(prediction, classifier_score=classifier_score)
        return prediction, tuple(state)

    def _predictions(self, x, level, decisions):
        """The main network's and the active references', in that order."""
        branches = [self.main, *(self.references[r] for r in self._active)]
        conditions = [decisions.main, *decisions.references]
        if not self.together:
            return [b.denoiser(x, level, c) for b, c in zip(branches, conditions, strict=True)]
        predictions = {}
        for denoiser in {id(b.denoiser): b.denoiser for b in branches}.values():
            own = [n for n, b in enumerate(branches) if b.denoiser is denoiser]
            several = _in_one_batch(denoiser, x, level, [conditions[n] for n in own])
            predictions.update(zip(own, several, strict=True))
        return [predictions[n] for n in range(len(branches))]


def _in_one_batch(denoiser, x, level, conditions):
    """One denoiser's predictions for several conditions [B, ...] each, of a batch of B times those.

    Rows of one sample lie side by side, so that a batch that is split over devices stays so.
    """
    count = len(conditions)
    if count == 1:
        return [denoiser(x, level, conditions[0])]

    def side_by_side(*rows):
        return jnp.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:])

    condition = jax.tree.map(side_by_side, *conditions)
    prediction = denoiser(jnp.repeat(x, count, axis=0), level, condition)
    return [jax.tree.map(lambda a, n=n: a[n::count], prediction) for n in range(count)]
