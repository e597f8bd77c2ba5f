"""How a job guides: its references, their weights at each step, and what else is asked of them."""

import dataclasses
import math

import numpy as np

from jaxdiff.config import PROCESS_FIELDS
from jaxdiff.data import record
from jaxdiff.errors import UserError
from jaxdiff.guidance import weights
from jaxdiff.guidance.cads import Cads, gamma
from jaxdiff.guidance.combiners import Apg, Linear
from jaxdiff.guidance.equation import GuidanceParams
from jaxdiff.sampling.options import parse_apg, parse_cads, parse_interval, parse_schedule
from jaxdiff.sampling.pipeline import ConditionKind, GuidanceReference, Params
from jaxdiff.sampling.trained_model import Model, open_model

MOST_NORM = float(np.finfo(np.float32).max)  # shrinks nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Equation (1) and (2) of a job.

    Attributes:
      guides: the networks, beside the main one, that it is pushed away from.
      references: what each of the strength's weights belongs to.
      classifier: that guides to the labels, or None; at scale 0 it lends its classes.
      strength: weights and all that is done with them, NumPy arrays.
      cads: how conditions are annealed, or None.
      notes: sentences about what was asked for and never happens.
    """

    guides: tuple[Model, ...]
    references: tuple[GuidanceReference, ...]
    classifier: Model | None
    strength: GuidanceParams
    cads: Cads | None
    notes: tuple[str, ...] = ()

    @property
    def uses_classifier(self):
        """Whether the classifier is ever evaluated."""
        return self.classifier is not None and bool(np.any(self.strength.scales))

    def params(self, model, mesh):
        """The Params of all networks that are evaluated."""
        return Params(
            model.params(mesh),
            tuple(guide.params(mesh) for guide in self.guides),
            self.classifier.params(mesh) if self.uses_classifier else None,
        )

    def num_classes(self, model):
        """How many classes there are to ask for: the model's, or else the classifier's."""
        return self._with_classes(model).config.data.num_classes

    def classes(self, model):
        """The classes that are sampled by default: those that have images, as far as is known."""
        known = record.read(self._with_classes(model).reference.run.folder)
        empty = set(known["empty"]) if known else ()
        return tuple(c for c in range(self.num_classes(model)) if c not in empty)

    def _with_classes(self, model):
        has_own = model.config.data.num_classes or self.classifier is None
        return model if has_own else self.classifier


def find(request, model, steps):
    """The method that a request asks for.

    Args:
      request: a Request.
      model: the Model that is sampled.
      steps: Steps of the sampler.

    Raises:
      UserError: for what cannot be combined, or networks that do not fit.
    """
    _check_flags(request, model)
    guides = tuple(_guide(name, model) for name in request.guide)
    asked = _references(request, guides)
    classifier = _classifier(request, model)
    by_step = _weights(request, [w for _, w in asked], steps)
    intervals, classifier_interval = _intervals(request, len(asked), classifier is not None)
    ungated = by_step
    by_step = np.array(
        [weights.within(w, steps, each, 1.0) for w, each in zip(by_step, intervals, strict=True)]
    ).reshape(by_step.shape)
    named = [a.named(request.guide) for a, _ in asked]
    gates = list(zip(named, ungated != 1, by_step != 1, intervals, strict=True))  # on, and left on
    scales = None
    if classifier is not None:
        whole = np.full(len(steps.ratio), request.scale)
        scales = _float32(weights.within(whole, steps, classifier_interval, 0.0))
        gates.append(("the classifier", whole != 0, scales != 0, classifier_interval))
    return Method(
        guides=guides,
        references=tuple(against for against, _ in asked),
        classifier=classifier,
        strength=GuidanceParams(
            _float32(by_step), scales, _combiner(request), _float32(request.rescale)
        ),
        cads=_cads(request, steps),
        notes=tuple(
            _never(name, interval, steps)
            for name, on, left, interval in gates
            if on.any() and not left.any()
        ),
    )


def _never(name, interval, steps):
    """A sentence about what an interval of noise levels switches off at every step."""
    low, high = interval
    above, below = steps.ratio[steps.ratio > high][-1:], steps.ratio[steps.ratio <= low][:1]
    near = " and ".join(f"{level:.4g}" for level in (*above, *below))
    return (
        f"--interval {low:g},{high:g} holds none of the {len(steps.ratio)} noise levels that steps "
        f"start from (nearest: {near}), so {name} is never applied."
    )


def _references(request, guides):
    """[(GuidanceReference, w)]: the network itself first, then guides told their label, then told none."""
    asked = []
    if request.cfg is not None:
        asked.append(
            (
                GuidanceReference(ConditionKind.RANDOM if request.icg else ConditionKind.NULL),
                request.cfg,
            )
        )
    for told, values in (
        (ConditionKind.LABEL, request.weight),
        (ConditionKind.NULL, request.guide_null),
    ):
        for number, w in enumerate(values):
            if told is ConditionKind.NULL:
                _check_null_label(guides[number], "guide_null", "use --weight")
            asked.append((GuidanceReference(told, number), w))
    return asked


def _weights(request, ws, steps):
    """[references, N] float64, without intervals."""
    schedules = [parse_schedule(text) for text in request.schedule] or [weights.static]
    if len(schedules) not in (1, len(ws)):
        raise UserError(
            f"--schedule is given {len(schedules)} times for {len(ws)} references: give it once "
            "for all, or once for each."
        )
    if len(schedules) == 1:
        schedules = schedules * len(ws)
    rows = [schedule(w, steps) for schedule, w in zip(schedules, ws, strict=True)]
    return np.stack(rows) if rows else np.ones((0, len(steps.ratio)))


def _intervals(request, references, has_classifier):
    """(an interval for each reference, the classifier's); (0, inf) where none was asked for."""
    values = [parse_interval(text) for text in request.interval] or [(0.0, math.inf)]
    if len(values) == 1:
        return values * references, values[0]
    if len(values) != references + has_classifier:
        raise UserError(
            f"--interval is given {len(values)} times for {references + has_classifier} that "
            "guide: give it once for all, or once for each reference and then one for the "
            "classifier."
        )
    return values[:references], values[-1]


def _combiner(request):
    if request.apg is None:
        return Linear()
    eta, momentum, norm = parse_apg(request.apg)
    return Apg(np.float32(eta), np.float32(momentum), np.float32(min(norm, MOST_NORM)))


def _cads(request, steps):
    if request.cads is None:
        return None
    tau1, tau2, scale, psi = parse_cads(request.cads)
    gammas = gamma(steps.time, tau1, tau2).astype(np.float32)
    return Cads(gammas, _float32(scale), np.float32(psi))


def _float32(values):
    """Numbers as they are computed with; None stays None."""
    if values is None:
        return None
    with np.errstate(over="ignore"):
        values = np.float32(values)
    if not np.isfinite(values).all():
        raise UserError("A weight or scale is too large for float32: choose a smaller one.")
    return values


def _check_flags(request, model):
    """Refuses what has no meaning without something else, before any file is opened."""
    references = bool(request.guide) or request.cfg is not None
    nothing = "there is no reference to be pushed away from: add --cfg or --guide, or leave it out"
    guides = len(request.guide)
    for flag in ("weight", "guide_null"):
        values = getattr(request, flag)
        if len(values) not in (0, guides):
            raise UserError(
                f"--{flag} is given {len(values)} times and --guide {guides} times: give one for "
                "each guide, in order."
            )
    if guides and not request.weight and not request.guide_null:
        raise UserError(f"--guide {request.guide[0]} has no weight: add --weight, such as 2.")
    if request.icg and request.cfg is None:
        raise UserError("--icg has no weight: add --cfg, such as --cfg 2.")
    weights_of = {"weight": request.weight, "guide_null": request.guide_null}
    weights_of["cfg"] = () if request.cfg is None else (request.cfg,)
    for flag, values in weights_of.items():
        for value in values:
            if not math.isfinite(value):
                raise UserError(f"--{flag} is {value}: a weight must be a number; 1 is off.")
    for flag in ("schedule", "apg", "rescale"):
        value = getattr(request, flag)
        if value not in ((), None) and not references:
            raise UserError(f"--{flag} has nothing to work on, as {nothing}.")
    if request.classifier_scale is not None and request.classifier is None:
        raise UserError(
            f"--classifier_scale {request.classifier_scale} has nothing to scale: add --classifier "
            "with the run of one, or leave it out."
        )
    if request.together and not references:
        raise UserError(f"--together has nothing to put together, as {nothing}.")
    if request.interval and not references and request.classifier is None:
        raise UserError(f"--interval has nothing to gate, as {nothing}.")
    if request.rescale is not None and not 0 <= request.rescale <= 1:
        raise UserError(f"--rescale is {request.rescale}: it must lie between 0 and 1.")
    if request.cads is not None and not model.config.data.num_classes:
        raise UserError(
            f"--cads anneals the label, and {model} was trained without labels: leave it out."
        )
    if request.cfg is not None and not request.icg:
        instead = "use --icg" if model.config.data.num_classes else "leave it out"
        _check_null_label(model, "cfg", f"{instead}, or give a network without labels as --guide")
    if request.icg and not model.config.data.num_classes:
        raise UserError(
            f"--icg needs labels to draw from, and {model} was trained without: leave it out."
        )


def _check_null_label(model, flag, instead):
    config = model.config
    lacks = "label dropout" if config.data.num_classes else "labels"
    if not config.data.num_classes or not config.diffusion.label_dropout:
        raise UserError(
            f"--{flag} needs a network that was trained with labels and label dropout, and "
            f"{model} was trained without {lacks}: {instead}."
        )


def _guide(name, model):
    """The guide that a reference names, if it fits the model."""
    guide = open_model(name, "guide")
    own, theirs = guide.config.data, model.config.data
    names = ["image_size", "channels", "low_res_size"]
    if own.num_classes:  # CFG from a separate network without labels is none of another's classes
        names.append("num_classes")
    different = [
        f"data.{n} ({own[n]}, the model's is {theirs[n]})" for n in names if own[n] != theirs[n]
    ]
    kinds = {config.model.kind == "toy" for config in (guide.config, model.config)}
    if len(kinds) > 1:
        different.append("what is sampled (points of the plane, and images)")
    if different:
        raise UserError(
            f"The guide {guide} differs from the model in {', '.join(different)}: guide with a "
            "network of the same images and classes, or of none."
        )
    _check_class_names("guide", guide, model)
    return guide


def _check_class_names(what, other, model):
    """Refuses a network whose classes are others than the model's, as far as both are known."""
    records = [record.read(each.reference.run.folder) for each in (other, model)]
    if not all(each and record.are_named(each["classes"]) for each in records):
        return
    if difference := record.first_difference(*(each["classes"] for each in records)):
        number, theirs, own = difference
        raise UserError(
            f"The {what} {other} was trained on other classes than the model: class {number} is "
            f"{theirs}, and the model's is {own}; use a {what} that was trained on the same data."
        )


def _classifier(request, model):
    """The classifier that a request names, or None, if it fits the model."""
    if request.classifier is None:
        return None
    if not 0 <= request.scale < math.inf:
        raise UserError(f"--classifier_scale is {request.scale}: it must be 0 or more.")
    classifier = open_model(request.classifier, "classifier", "a classifier")
    own, theirs = classifier.config, model.config
    if theirs.diffusion.process != "adm":
        raise UserError(
            f"--classifier guides models of the process adm, and {model} has the process "
            f"{theirs.diffusion.process}: use --cfg or --guide."
        )
    names = [("diffusion", field) for field in PROCESS_FIELDS]
    names += [("data", "image_size"), ("data", "channels")]
    if theirs.data.num_classes:
        names.append(("data", "num_classes"))
    different = [
        f"{section}.{field} ({own[section][field]}, the model's is {theirs[section][field]})"
        for section, field in names
        if own[section][field] != theirs[section][field]
    ]
    if different:
        raise UserError(
            f"The classifier {classifier} differs from the model in {', '.join(different)}: guide "
            "with one that was trained with the model's run as diffusion.from_run."
        )
    _check_class_names("classifier", classifier, model)
    return classifier
