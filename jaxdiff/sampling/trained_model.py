"""A trained network in Python: `jaxdiff.load(...)`, `model.sample(...)`, `model.denoise(...)`."""

import dataclasses
import inspect
from functools import cached_property, partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff import factory, files
from jaxdiff.checkpoints.run import Reference, read_ema, resolve
from jaxdiff.config import (
    APG,
    CADS,
    Guidance,
    Image,
    Label,
    Range,
    RunConfig,
    Sampler,
    Tokens,
    Vector,
    import_modules,
)
from jaxdiff.config.fields import checked_value, nearest, shown
from jaxdiff.config.guidance import GUIDES
from jaxdiff.config.training import Seed
from jaxdiff.data import record
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.errors import UserError, user_errors
from jaxdiff.guidance.weights import Steps
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding
from jaxdiff.sampling.guidance_config import method_of
from jaxdiff.sampling.job import Job, default_batch_size
from jaxdiff.sampling.pipeline import Pipeline

TENSOR_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
Count = Annotated[int, Range(1, 2**31 - 1)]
# What a request may hold.
HINTS = {
    "n": Count,
    "seed": Seed,
    "batch_size": Count | None,
    "sampler": Sampler,
    "guidance": tuple[Guidance, ...],
    "combiner": APG | None,
    "rescale": Annotated[float, Range(0, 1)] | None,
    "cads": CADS | None,
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network with its parameters, and its noise process.

    Attributes:
      config: the RunConfig that it was trained by.
      parameters: of the network, a nested dict of arrays; None: those that `reference` names.
      reference: where in a run's folder they are.
      dropout: rate that the network is sampled with, in [0, 1).
      class_names: of its labels, in order; empty where they are not known.
      empty: numbers of the classes that have no examples.
      mesh: the devices that it is sampled on; None: all there are.
    """

    config: RunConfig
    parameters: Any = None
    reference: Reference | None = None
    dropout: float = 0.0
    class_names: tuple[str, ...] = ()
    empty: tuple[int, ...] = ()
    mesh: Mesh | None = None

    def __str__(self):
        return str(self.reference or "the model")

    @cached_property
    def devices(self):
        """The mesh of the devices that it is sampled on."""
        return make_mesh() if self.mesh is None else self.mesh

    @cached_property
    def network(self):
        """The network without its parameters, for the devices that it is sampled on."""
        return factory.network(self.config, self.devices)

    @cached_property
    def process(self):
        """Its noise process."""
        return factory.process(self.config.diffusion)

    @cached_property
    def codec(self):
        """What turns images into samples and back."""
        return factory.codec(self.config.model.codec)

    @cached_property
    def params(self):
        """The parameters, split along `fsdp` of the mesh; read when they are first asked for."""
        shardings = parameter_sharding(self.devices, self.network.shapes)
        if self.parameters is not None:
            return jax.device_put(self.parameters, shardings)
        return read_ema(self.reference, self.network.shapes, shardings)

    def job(
        self,
        n,
        seed=0,
        cond=None,
        sampler=None,
        guidance=(),
        combiner=None,
        rescale=None,
        cads=None,
        batch_size=None,
        start=None,
        together=None,
    ):
        """A request as `sample` takes it, all that it names found and checked, nothing computed.

        Returns:
          A jaxdiff.sampling.job.Job.

        Raises:
          UserError: for what cannot be sampled.
        """
        self._require_denoiser()
        spec = self.config.sampling if sampler is None else sampler
        specs = guidance if isinstance(guidance, (tuple, list)) else [guidance]
        given = (n, seed, batch_size, spec, specs, combiner, rescale, cads)
        given = [checked_value(*each) for each in zip(HINTS, given, HINTS.values(), strict=True)]
        n, seed, batch_size, spec, specs, combiner, rescale, cads = given
        levels, steps = self._path(spec)
        specs = _with_networks(specs, self.mesh)
        method = method_of(self, specs, combiner, rescale, cads, steps)
        chosen = self._conditions(n, cond, method.classifier)
        start = None if start is None else _checked("start", start, n, self.network.signature.shape)
        # Two batches of B keep a CPU as busy as one of 2B.
        platform = self.devices.devices.flat[0].platform
        together = platform != "cpu" if together is None else together
        pipeline = Pipeline(
            network=self.network,
            process=self.process,
            sampler=factory.sampler(spec),
            codec=self.codec,
            mesh=self.devices,
            dropout=self.dropout,
            guides=tuple((each.network, each.process, each.dropout) for each in method.guides),
            references=method.references,
            classifier=method.classifier.network if method.uses_classifier else None,
            together=bool(together),
        )
        grid = pipeline.sampler.grid(levels)
        return Job(
            model=self,
            method=method,
            pipeline=pipeline,
            grid=grid,
            num_samples=n,
            batch_size=batch_size or default_batch_size(self.devices.size),
            seed=seed,
            cond=chosen,
            class_names=self._named(method.classifier).class_names,
            start=start,
            request={
                "sampling": spec,
                "guidance": specs,
                "combiner": combiner,
                "rescale": rescale,
                "cads": cads,
            },
        )

    def sample(self, *request, **named):
        """Samples the model, guided or not.

        Args:
          n: how many samples.
          seed: of everything random; sample number k of a seed is the same in every batch size.
          cond: {name: value} of the model's conditions, such as {"label": 3}: one for all samples,
            or an array with one for each; labels are taken in turn, by default all classes.
          sampler: such as Heun(steps=18); None: the run's own.
          guidance: specs such as CFG(2), ICG(2), Autoguidance(guide, 1.7) and
            ClassifierGuidance(classifier, 1), one or several; networks are TrainedModels or the
            texts that `load` takes.
          combiner: an APG, or None.
          rescale: phi in [0, 1] of CFG rescale, or None.
          cads: a CADS, or None.
          batch_size: how many samples at once, over all devices; None: 128, or 16 for each device
            where that is more.
          start: unit noise float32 [n, ...] to start from; None: each sample's own.
          together: predictions of one network under several conditions come from one batch; None:
            where that is faster.

        Returns:
          Samples: .images, .x, .cond, .class_names, .grid() and .save(folder).

        Raises:
          UserError: for what cannot be sampled, or where the memory does not suffice.
        """
        return self.job(*request, **named).samples()

    sample.__signature__ = inspect.signature(job)

    def denoise(self, x, sigma, cond=None):
        """The expected clean sample x0 [B, ...] at x = x0 + sigma * noise.

        Args:
          x: [B, ...] float32.
          sigma: a number or [B].
          cond: as in `sample`.

        Raises:
          UserError: for conditions that the model does not have, or that are missing.
        """
        self._require_denoiser()
        cond = self._conditions(len(x), cond, None)
        return _denoise(self.network, self.process, self.params, x, jnp.asarray(sigma), cond)

    def _require_denoiser(self):
        if self.config.is_classifier:
            raise UserError(f"{self} is a classifier: give a diffusion model.")

    def _path(self, spec):
        """(levels, Steps) of a sampler's settings."""
        with user_errors():
            levels, time = self.process.path(spec)
        return levels, Steps(levels.ratio[:-1], time)

    def _named(self, classifier):
        """The model whose labels are sampled: this one, or the classifier that guides it."""
        return self if classifier is None or self.config.label else classifier

    def _conditions(self, n, given, classifier):
        """{name: array [n, ...]} of all conditions; labels that are not given come in turn.

        Raises:
          UserError: for conditions that are unknown or missing, or values that do not fit.
        """
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise UserError(f"cond is {shown(given)}: give a dict such as {{'label': 3}}.")
        wanted = {each.name: each for each in self.config.model.conditions}
        if classifier is not None:
            wanted = {classifier.config.label.name: classifier.config.label, **wanted}
        has_tokens = any(isinstance(each, Tokens) for each in wanted.values())
        for name in given:
            if name not in wanted and not (name == "mask" and has_tokens):
                known = nearest(name, list(wanted)) if wanted else "it has none."
                raise UserError(f"{self} has no condition {name}: {known}")
        found, turn, named = {}, np.arange(n), self._named(classifier)
        for name, each in wanted.items():
            if isinstance(each, Label) and name not in given:
                empty = named.empty if each is named.config.label else ()
                classes = np.int32([c for c in range(each.classes) if c not in empty])
                found[name] = classes[turn % len(classes)]
                turn = turn // len(classes)
            elif name not in given:
                raise UserError(
                    f"{self} is conditioned on {name}: give cond={{{name!r}: ...}}, on the command "
                    "line --cond FILE.npz or --cond_split SPLIT."
                )
            else:
                found[name] = condition_array(each, given[name], n, self.config.data)
            if isinstance(each, Tokens):
                mask = given.get("mask", np.ones(each.length, bool))
                found["mask"] = _checked("cond mask", mask, n, (each.length,), bool)
        return found


def load(text, step=None, ema=None, dropout=None, imports=()):
    """Loads a trained model, such as "runs/a", or "runs/a@500:ema=0.1".

    Args:
      text: RUN[@STEP][:ema=LENGTH,dropout=RATE]: a run's folder, and what follows may be given here
        or by the other arguments. Without a step it is the latest.
      step: of training.
      ema: length (sigma_rel) of the average of the parameters.
      dropout: rate that the network is sampled with, in [0, 1).
      imports: modules with kinds of networks, data and so on that the run uses.

    Returns:
      A TrainedModel.

    Raises:
      UserError: if there is none.
    """
    import_modules(imports)
    path = files.parse_path(text, "The reference")
    if path.suffix in TENSOR_FILES and not files.is_folder(path):
        raise UserError(
            f"{text} is a file of tensors, and a run is needed: make one of it with "
            f"`python -m jaxdiff.interop.openai import {text} --out runs/NAME "
            "--config FILE --attention_order ORDER`, see docs/openai.md."
        )
    reference = resolve(text, step, ema, dropout)
    known = record.read(reference.run.folder) or {"classes": (), "empty": ()}
    return TrainedModel(
        config=reference.run.config(),
        reference=reference,
        dropout=reference.dropout,
        class_names=tuple(known["classes"]),
        empty=tuple(known["empty"]),
    )


def condition_array(condition, value, n, data):
    """A condition of n samples, an array [n, ...], of one value for all or one for each.

    Args:
      condition: its settings, such as Label(10).
      value: what was given; labels are taken in turn, images may be uint8.
      n: how many samples.
      data: the settings of the model's data, whose low_res_size the image `image` has.

    Raises:
      UserError: for values of another shape, labels of no class, and what is not finite.
    """
    name, value = condition.name, _array(f"cond {condition.name}", value)
    if isinstance(condition, Label):
        if value.dtype.kind not in "iu" or value.ndim > 1 or not value.size:
            raise UserError(f"cond {name} is {shown(value)}: give one or more whole numbers.")
        value = np.atleast_1d(value)
        if len(wrong := value[(value < 0) | (value >= condition.classes)]):
            raise UserError(
                f"cond {name} has {wrong[0]}: classes are 0 to {condition.classes - 1}."
            )
        return np.resize(np.int32(value), n)
    if isinstance(condition, Image):
        if value.dtype == np.uint8:
            value = value.astype(np.float32) / 127.5 - 1
        size = getattr(data, "low_res_size", 0) if name == "image" else 0
        sizes = (size, size) if size else value.shape[-3:-1] if value.ndim >= 3 else (None, None)
        shape = (*sizes, condition.channels)
    elif isinstance(condition, Vector):
        shape = (condition.size,)
    else:
        shape = (condition.length, condition.width)
    return _checked(f"cond {name}", value, n, shape)


def _array(name, value):
    try:
        return np.asarray(value)
    except ValueError as error:
        raise UserError(f"{name} is no array ({error}): give one.") from None


def _checked(name, value, n, shape, dtype=np.float32):
    """An array [n, *shape], of a value for each sample or one for all; UserError if it is not."""
    value = _array(name, value)
    if value.shape not in ((n, *shape), shape):
        raise UserError(
            f"{name} has the shape {value.shape}: it must be {(n, *shape)}, one for each of {n} "
            f"samples, or {shape}, one for all."
        )
    if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
        raise UserError(f"{name} has values that are not finite numbers: give others.")
    return np.broadcast_to(value.astype(dtype), (n, *shape))


def _with_networks(specs, mesh):
    """Guidance specs whose networks, where they were named by text, are loaded, each once."""
    loaded, found = {}, []
    for spec in specs:
        for field in GUIDES:
            network = getattr(spec, field, None)
            if network is not None and not isinstance(network, TrainedModel):
                if network not in loaded:
                    loaded[network] = dataclasses.replace(load(network), mesh=mesh)
                spec = dataclasses.replace(spec, **{field: loaded[network]})
        found.append(spec)
    return found


@partial(jax.jit, static_argnums=(0, 1))
def _denoise(network, process, params, x, sigma, cond):
    denoiser = process.denoiser(partial(network.apply, params))
    level = Level(jnp.ones_like(sigma), sigma)
    return denoiser(x, level, network.embed(params, cond)).x0
