"""From guidance specs, such as [CFG(2), Autoguidance(guide, 1.7)], to weights at each step."""

import dataclasses
from typing import Any

import numpy as np

from jaxdiff import factory
from jaxdiff.config import CFG, ICG, ClassifierGuidance
from jaxdiff.data import record
from jaxdiff.errors import UserError
from jaxdiff.guidance.cads import Cads
from jaxdiff.guidance.equation import GuidanceParams
from jaxdiff.guidance.weights import weights
from jaxdiff.sampling.pipeline import ConditionKind, GuidanceReference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Equations (1) and (2) of a request.

    Attributes:
      guides: the TrainedModels that are references, each once.
      references: what each of the weights belongs to.
      classifier: the TrainedModel that guides to the labels, or None.
      params: weights and all else that shapes guidance, NumPy arrays.
      cads: how conditions are annealed, or None.
      notes: sentences about guidance that its interval excludes from every step.
    """

    guides: tuple[Any, ...] = ()
    references: tuple[GuidanceReference, ...] = ()
    classifier: Any = None
    params: GuidanceParams
    cads: Cads | None = None
    notes: tuple[str, ...] = ()

    @property
    def uses_classifier(self):
        """Whether the classifier is ever evaluated."""
        return self.classifier is not None and bool(np.any(self.params.scales))


def method_of(model, specs, combiner, rescale, cads, steps):
    """The Method of guidance specs.

    Args:
      model: the TrainedModel that is sampled.
      specs: of CFG, ICG, Autoguidance and ClassifierGuidance, whose networks are TrainedModels.
      combiner: an APG, or None.
      rescale: phi in [0, 1], or None.
      cads: a CADS, or None.
      steps: Steps of the sampler.

    Raises:
      UserError: for what cannot be combined, or networks that do not fit the model.
    """
    guides, references, rows, scales, classifier, notes = [], [], [], None, None, []
    for spec in specs:
        values = weights(spec, steps)
        if isinstance(spec, ClassifierGuidance):
            if classifier is not None:
                raise UserError("ClassifierGuidance is given twice: give one classifier.")
            _check_classifier(spec.classifier, model)
            classifier, scales = spec.classifier, values
        else:
            references.append(_reference(spec, model, guides))
            rows.append(values)
        notes += _never(spec, values, steps)
    _check_others(model, references, combiner, rescale, cads)
    return Method(
        guides=tuple(guides),
        references=tuple(references),
        classifier=classifier,
        params=GuidanceParams(
            np.float32(rows).reshape(len(rows), len(steps.ratio)),
            None if scales is None else np.float32(scales),
            factory.combiner(combiner),
            None if rescale is None else np.float32(rescale),
        ),
        cads=cads and Cads.of(cads, steps.time),
        notes=tuple(notes),
    )


def _reference(spec, model, guides):
    """The GuidanceReference of a spec; its guide is added to `guides`."""
    if isinstance(spec, CFG):
        _check_null("CFG", model)
        return GuidanceReference(ConditionKind.NULL)
    if isinstance(spec, ICG):
        _check_labels(model)
        return GuidanceReference(ConditionKind.RANDOM)
    if spec.guide not in guides:
        _check_guide(spec.guide, model)
        guides.append(spec.guide)
    if spec.null:
        _check_null("Autoguidance with null", spec.guide)
    kind = ConditionKind.NULL if spec.null else ConditionKind.CONDITION
    return GuidanceReference(kind, guides.index(spec.guide))


def _never(spec, values, steps):
    """A sentence about an interval of noise levels that none of the steps is in, if so."""
    is_classifier = isinstance(spec, ClassifierGuidance)
    off, w = (0, spec.scale) if is_classifier else (1, spec.weight)
    if spec.interval is None or w == off or np.any(values != off):
        return []
    low, high = spec.interval
    above, below = steps.ratio[steps.ratio > high][-1:], steps.ratio[steps.ratio <= low][:1]
    near = " and ".join(f"{level:.4g}" for level in (*above, *below))
    return [
        f"The interval {low:g} to {high:g} of {type(spec).__name__} holds none of the "
        f"{len(steps.ratio)} noise levels that steps start from (nearest: {near}), so it is never "
        "applied."
    ]


def _check_others(model, references, combiner, rescale, cads):
    for name, value in (("APG", combiner), ("rescale", rescale)):
        if value is not None and not references:
            raise UserError(
                f"{name} changes the difference from a reference, and there is none: add CFG, ICG "
                "or Autoguidance, or leave it out."
            )
    if cads is not None and not model.config.model.conditions:
        raise UserError(
            f"CADS anneals conditions, and {model} was trained without any: leave it out."
        )


def _check_null(what, model):
    config = model.config
    lacks = "condition dropout" if config.model.conditions else "conditions"
    if not (config.model.conditions and config.signature.null):
        raise UserError(
            f"{what} needs a network that was trained with conditions and condition dropout, and "
            f"{model} was trained without {lacks}: use ICG, or Autoguidance by a network without "
            "conditions."
        )


def _check_labels(model):
    if model.config.label is None:
        names = ", ".join(each.name for each in model.config.model.conditions) or "nothing"
        raise UserError(
            f"ICG draws random labels, and {model} is conditioned on {names}: leave it out."
        )


def _check_guide(guide, model):
    """Raises UserError for a guide that does not fit the model."""
    own, theirs = guide.config, model.config
    if own.is_classifier:
        raise UserError(f"{guide} is a classifier: Autoguidance needs a diffusion model.")
    pairs = [("model.codec", own.model.codec, theirs.model.codec)]
    for each in own.model.conditions:
        same = next((c for c in theirs.model.conditions if c.name == each.name), None)
        pairs.append(("model.conditions", each, same))
    _check_fits(
        "guide", guide, model, pairs, "guide with a network of the same data and conditions"
    )


def _check_classifier(classifier, model):
    """Raises UserError for a classifier that does not fit the model."""
    own, theirs = classifier.config, model.config
    if not own.is_classifier or classifier.dropout:
        raise UserError(
            f"{classifier} is not a classifier, or has dropout: ClassifierGuidance needs the run "
            "of a classifier without dropout."
        )
    names = ("kind", *own.diffusion.SAME)
    processes = [[getattr(c.diffusion, n, None) for n in names] for c in (own, theirs)]
    pairs = [(f"diffusion.{n}", a, b) for n, a, b in zip(names, *processes, strict=True)]
    if theirs.label is not None:
        pairs.append(("the label", own.label, theirs.label))
    advice = "guide with one that was trained with the model's run as diffusion.from_run"
    _check_fits("classifier", classifier, model, pairs, advice)


def _check_fits(what, other, model, pairs, advice):
    """Raises UserError for a network whose samples, classes or pairs of values differ.

    Args:
      what: it is, "guide" or "classifier".
      other, model: TrainedModels.
      pairs: (name, its value, the model's) of what must be equal.
      advice: what to do, to end the sentence.
    """
    shapes = [each.config.signature.shape for each in (other, model)]
    named = [list(each.class_names) for each in (other, model)]
    pairs = [("the shape of samples", *shapes), *pairs]
    different = [f"{name} ({a}, the model's is {b})" for name, a, b in pairs if a != b]
    if all(map(record.are_named, named)) and (first := record.first_difference(*named)):
        number, own, theirs = first
        different.append(f"the classes (class {number} is {own}, and the model's is {theirs})")
    if different:
        raise UserError(
            f"The {what} {other} differs from the model in {', '.join(different)}: {advice}."
        )
