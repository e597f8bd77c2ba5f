"""A grid of guides, weights and averages to search, and samples at its points.

Every point has the same seed, so points differ in nothing but what they are of. The networks are
compiled once, for the points that are guided and for those that are not.
"""

import dataclasses
import itertools
import math
import shlex
from functools import cached_property

import numpy as np
from tqdm import tqdm

from jaxdiff.checkpoints import ema
from jaxdiff.checkpoints.run import resolve, varied
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import finite, run_sampling
from jaxdiff.sampling.options import parse_interval
from jaxdiff.sampling.pipeline import Params

HELD = 4  # networks whose parameters are held at once


class NonFinite(UserError):
    """Samples of a point that are not finite, and have no distance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What is searched. None: as the references say, or no interval.

    Attributes:
      weight: w; at 1 there is no guide, and what concerns it is None.
      guide_step: of the guide's run.
      model_ema, guide_ema: lengths (sigma_rel) of the averages.
      interval: "LO,HI" in sigma/alpha, where it is guided.
    """

    weight: float
    guide_step: int | None = None
    model_ema: float | None = None
    guide_ema: float | None = None
    interval: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """What all points have in common.

    Attributes:
      model: reference to the network that is sampled.
      guide: reference to what guides it; None: itself told no label (CFG).
      model_step, guide_step: of those that name none; None: the latest, whenever that is.
      num_samples, batch_size, seed, sampler, steps: of every point, as in a Request.
    """

    model: str
    guide: str | None = None
    model_step: int | None = None
    guide_step: int | None = None
    num_samples: int = 2000
    batch_size: int = 250
    seed: int = 0
    sampler: str | None = None
    steps: str | None = None

    def request(self, point, seed=None):
        """The Request of a point, with another seed if one is given."""
        guidance = {}
        if point.weight != 1:
            guidance = {"cfg": point.weight}
            if self.guide is not None:
                guide = varied(self.guide, self._guide_step(point), point.guide_ema)
                guidance = {"guide": (guide,), "weight": (point.weight,)}
            guidance["interval"] = (point.interval,) if point.interval else ()
        common = {
            name: getattr(self, name) for name in ("num_samples", "batch_size", "sampler", "steps")
        }
        return run_sampling.Request(
            model=varied(self.model, self.model_step, point.model_ema),
            out="",
            seed=self.seed if seed is None else seed,
            **common,
            **guidance,
        )

    def _guide_step(self, point):
        return self.guide_step if point.guide_step is None else point.guide_step

    def pinned(self, points, begun):
        """The same search of the steps that its references name now, whatever is trained later.

        Args:
          points: of the search.
          begun: the fields of the search as it was begun, a dict; empty if it begins now.

        Raises:
          UserError: for a run that there is not, or an average that cannot be rebuilt.
        """

        def step(field, text, lengths):
            if begun.get(f"{field}_step") is not None and begun[field] == text:
                return begun[f"{field}_step"]
            length = next((each for each in lengths if each is not None), None)
            return processes.agree(resolve(varied(text, ema=length)).step)

        steps = {"model_step": step("model", self.model, [p.model_ema for p in points])}
        if self.guide is not None:
            steps["guide_step"] = step("guide", self.guide, [p.guide_ema for p in points])
        return dataclasses.replace(self, **steps)

    def averages(self, points):
        """{(text, step): References} of all networks that points are of.

        Raises:
          UserError: for a run or step that there is not, or averages that cannot be rebuilt.
        """
        lengths = {}
        for point in points:
            lengths.setdefault((self.model, self.model_step), set()).add(point.model_ema)
            if self.guide is not None and point.weight != 1:
                place = (self.guide, self._guide_step(point))
                lengths.setdefault(place, set()).add(point.guide_ema)
        return {
            (text, step): [resolve(varied(text, step, length)) for length in each]
            for (text, step), each in lengths.items()
        }

    def prepare_averages(self, points):
        """Rebuilds all averages that points need and the runs do not keep, many at once.

        Raises:
          UserError: as `averages`.
        """
        for found in self.averages(points).values():
            if lengths := [reference.ema for reference in found if reference.ema is not None]:
                ema.fill(found[0].run.folder, lengths, found[0].step)

    def images(self, point, seed=None):
        """Samples of a point as uint8 [num_samples, H, W, C], and their labels [num_samples].

        Raises:
          NonFinite: if any is not finite.
        """
        prepared = run_sampling.prepare(self.request(point, seed))
        generate = self._compiled.setdefault(prepared.generate.references, prepared.generate)
        prepared = dataclasses.replace(prepared, generate=generate)
        params = Params(self._read(prepared.model), tuple(map(self._read, prepared.method.guides)))
        numbers = np.arange(self.num_samples)
        x = prepared.samples(params, prepared.request.seed, numbers, quiet=True)
        for note in prepared.method.notes if processes.is_first() else ():
            tqdm.write(note)
        if len(bad := finite.non_finite(x)):
            found = finite.about(finite.summary(bad), len(x))
            given = {name: v for name, v in dataclasses.asdict(point).items() if v is not None}
            named = ", ".join(f"{name} {value}" for name, value in given.items())
            raise NonFinite(f"{found} at the point {named}: leave its weight out of the search.")
        return finite.pictures_of(x, bad), generate.labels(numbers)

    @cached_property
    def _compiled(self):
        """{references: the Generator that has compiled their programs}."""
        return {}

    @cached_property
    def _held(self):
        """{reference: parameters} of the last few networks."""
        return {}

    def _read(self, model):
        held, name = self._held, str(model)
        params = held.pop(name, None)
        if params is None:
            if len(held) == HELD:
                held.pop(next(iter(held)))  # that was wanted least lately
            params = model.params(make_mesh())
        held[name] = params
        return params

    def command(self, point, out):
        """The command line that samples a point to the folder `out`."""
        request = self.request(point)
        words = ["python sample.py", f"--model {shlex.quote(request.model)}"]
        words += [
            f"--guide {shlex.quote(guide)} --weight {point.weight:g}" for guide in request.guide
        ]
        words += [f"--cfg {request.cfg:g}"] if request.cfg is not None else []
        words += [f"--interval {interval}" for interval in request.interval]
        for name in ("sampler", "steps", "num_samples", "seed"):
            if (value := getattr(request, name)) is not None:
                words.append(f"--{name} {value}")
        return " ".join([*words, f"--out {shlex.quote(str(out))}"])


def grid(search, weights, guide_steps, model_emas, guide_emas, intervals):
    """All points, each once, those of one network after another.

    Args:
      search: a Search.
      weights, guide_steps, model_emas, guide_emas, intervals: values of a Point's fields; empty
        where the references decide.

    Raises:
      UserError: for no weights or what is none, intervals that cannot be read, and values that
        concern a guide where there is none.
    """
    if not weights:
        raise UserError("--weights is empty: give weights such as 1,1.5,2; 1 is not guided.")
    if unusable := [weight for weight in weights if not math.isfinite(weight)]:
        raise UserError(f"--weights holds {unusable[0]}: a weight must be a number; 1 is off.")
    intervals = ["{:g},{:g}".format(*parse_interval(text)) for text in intervals]
    if search.guide is None and (guide_steps or guide_emas):
        raise UserError(
            "--guide_steps and --guide_ema have no meaning without --guide, which is "
            "classifier-free guidance by the model itself: give a guide, or leave them out."
        )
    fields = itertools.product(
        model_emas or [None],
        guide_steps or [None],
        guide_emas or [None],
        intervals or [None],
        weights,
    )
    points = []
    for model_ema, guide_step, guide_ema, interval, weight in fields:
        guided = {"guide_step": guide_step, "guide_ema": guide_ema, "interval": interval}
        if weight == 1:
            guided = {}
        points.append(Point(weight=weight, model_ema=model_ema, **guided))
    return list(dict.fromkeys(points))
