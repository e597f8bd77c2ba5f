"""A grid of guides, weights and averages to search, and samples at its points.

Every point has the same seed, so points differ in nothing but what they are of. Sampling programs
are compiled once, for the points that are guided and for those that are not.
"""

import contextlib
import dataclasses
import itertools
import shlex
from functools import cached_property
from typing import Any

from jaxdiff.checkpoints.posthoc_ema import fill
from jaxdiff.config import CFG, Autoguidance, Sampler, from_dict, to_dict
from jaxdiff.errors import UserError
from jaxdiff.files import WriteError
from jaxdiff.sampling import finite
from jaxdiff.sampling.trained_model import load

HELD = 4  # networks whose parameters are held at once


class NonFinite(UserError):
    """Samples of a point that are not finite, and cannot be measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What is searched. None: as the references have it, or no interval.

    Attributes:
      weight: w; 1 disables guidance, and then what concerns it is None.
      guide_step: of the guide's run.
      model_ema, guide_ema: lengths (sigma_rel) of the averages.
      interval: (low, high) in sigma/alpha, where guidance is applied.
    """

    weight: float
    guide_step: int | None = None
    model_ema: float | None = None
    guide_ema: float | None = None
    interval: tuple[float, float] | None = None

    def __str__(self):
        """Such as "weight 2, guide_step 500"; what is None is left out."""
        given = {name: v for name, v in dataclasses.asdict(self).items() if v is not None}
        return ", ".join(f"{name} {value}" for name, value in given.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What all points have in common.

    Attributes:
      model: reference to the network that is sampled.
      guide: reference to what guides it; None: itself under the null condition (CFG).
      model_step, guide_step: of those that name none; None: the latest, whenever that is.
      num_samples, batch_size, seed: of every point.
      sampler: such as Heun(steps=18); None: the run's.
    """

    model: str
    guide: str | None = None
    model_step: int | None = None
    guide_step: int | None = None
    num_samples: int = 2000
    batch_size: int = 250
    seed: int = 0
    sampler: Any = None

    def settings(self):
        """What decides the samples, as JSON values; `of_settings` is the way back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["batch_size"]
        return {**values, "sampler": self.sampler and to_dict(self.sampler)}

    def networks(self, point):
        """(model, guide or None) of a point: TrainedModels whose parameters are not read yet.

        Raises:
          UserError: for a run or step that there is not, or averages that cannot be rebuilt.
        """
        model = self._load(self.model, self.model_step, point.model_ema)
        if self.guide is None or point.weight == 1:
            return model, None
        step = self.guide_step if point.guide_step is None else point.guide_step
        return model, self._load(self.guide, step, point.guide_ema)

    def _load(self, *place):
        if place not in self._found:
            self._found[place] = load(*place)
        return self._found[place]

    @cached_property
    def _found(self):
        """{(text, step, length): TrainedModel}, none with its parameters read."""
        return {}

    def job(self, point, seed=None):
        """The sampling job of a point, with another seed if one is given.

        Raises:
          UserError: for what cannot be sampled.
        """
        model, guide = (each and self._held(each) for each in self.networks(point))
        guidance = ()
        if point.weight != 1:
            common = {"weight": point.weight, "interval": point.interval}
            guidance = (Autoguidance(guide, **common) if guide else CFG(**common),)
        return model.job(
            self.num_samples,
            seed=self.seed if seed is None else seed,
            sampler=self.sampler,
            guidance=guidance,
            batch_size=self.batch_size,
        )

    def samples(self, point, seed=None):
        """The Samples of a point.

        Raises:
          NonFinite: if any is not finite.
        """
        samples = self.job(point, seed).samples()
        if len(samples.non_finite):
            found = finite.about(finite.summary(samples.non_finite), len(samples))
            raise NonFinite(f"{found} at the point {point}: leave its weight out of the search.")
        return samples

    def pinned(self, points, begun):
        """The same search at the steps that its references name now, whatever is trained later.

        Args:
          points: of the search.
          begun: `settings` of the search as it was begun; empty if it begins now.

        Raises:
          UserError: for a run that there is not, or an average that cannot be rebuilt.
        """

        def step(field, lengths):
            text = getattr(self, field)
            if text is None or begun.get(field) == text:
                return begun.get(f"{field}_step")
            length = next((each for each in lengths if each is not None), None)
            return load(text, ema=length).reference.step

        return dataclasses.replace(
            self,
            model_step=step("model", [p.model_ema for p in points]),
            guide_step=step("guide", [p.guide_ema for p in points]),
        )

    def prepare_averages(self, points):
        """Rebuilds all averages that points need and the runs do not keep, many at once.

        Raises:
          UserError: as `networks`.
        """
        lengths = {}
        for model in (each for point in points for each in self.networks(point) if each):
            reference = model.reference
            if reference.ema is not None:
                place = (reference.run.folder, reference.step)
                lengths.setdefault(place, set()).add(reference.ema)
        for (folder, step), each in lengths.items():
            with contextlib.suppress(WriteError):  # then each is rebuilt where it is needed
                fill(folder, sorted(each), step)

    @cached_property
    def _models(self):
        """{name: TrainedModel} of the networks used last, with their parameters read."""
        return {}

    def _held(self, model):
        """A copy of the model that keeps its parameters while it is among the last few."""
        models, name = self._models, str(model)
        models[name] = models.pop(name, None) or dataclasses.replace(model)
        if len(models) > HELD:
            del models[next(iter(models))]
        return models[name]

    def command(self, point, out):
        """The command line that samples a point to the folder `out`."""
        model, guide = self.networks(point)
        words = ["python sample.py", f"--model {shlex.quote(str(model))}"]
        if guide is not None:
            words.append(f"--guide {shlex.quote(str(guide))} --weight {point.weight:g}")
        elif point.weight != 1:
            words.append(f"--cfg {point.weight:g}")
        if point.interval is not None:
            words.append("--interval {:g},{:g}".format(*point.interval))
        if self.sampler is not None:
            words.append(f"--sampler {self.sampler.kind} --steps {self.sampler.steps}")
        words += [f"--num_samples {self.num_samples}", f"--seed {self.seed}"]
        return " ".join([*words, f"--out {shlex.quote(str(out))}"])


def of_settings(values):
    """The Search that `Search.settings` made a dict of; other values in it are left out.

    Raises:
      UserError: for a sampler that there is not.
    """
    fields = {f.name: values[f.name] for f in dataclasses.fields(Search) if f.name in values}
    sampler = fields.get("sampler")
    return Search(**{**fields, "sampler": sampler and from_dict(sampler, "sampler", Sampler)})


def grid(search, weights, guide_steps=(), model_emas=(), guide_emas=(), intervals=()):
    """All points, each once, those of one network after another.

    Args:
      search: a Search.
      weights, guide_steps, model_emas, guide_emas, intervals: values of a Point's fields; empty
        where the references decide.

    Raises:
      UserError: for no weights, intervals that are none, and values that concern a guide where
        there is none.
    """
    if not weights:
        raise UserError("--weights is empty: give weights such as 1,1.5,2; 1 disables guidance.")
    for weight, interval in itertools.product(weights, intervals or [None]):
        CFG(weight, interval=interval)  # which checks them
    if search.guide is None and (guide_steps or guide_emas):
        raise UserError(
            "--guide_steps and --guide_ema have no meaning without --guide, which is "
            "classifier-free guidance by the model itself: give a guide, or leave them out."
        )
    lists = (model_emas, guide_steps, guide_emas, intervals)
    points = []
    for *fields, weight in itertools.product(*(each or [None] for each in lists), weights):
        model_ema, *guided = fields if weight != 1 else (fields[0], None, None, None)
        names = ("guide_step", "guide_ema", "interval")
        given = dict(zip(names, guided, strict=True))
        points.append(Point(weight=weight, model_ema=model_ema, **given))
    return list(dict.fromkeys(points))
