"""From a config or a sampling request, and a topology, to a Report."""

import dataclasses
import functools

import jax
from jax.sharding import AbstractMesh

from jaxdiff import counts
from jaxdiff.config import EDM, replaced
from jaxdiff.errors import UserError, user_errors
from jaxdiff.parallel.attention import attention_for
from jaxdiff.parallel.mesh import check_batch_size, make_mesh
from jaxdiff.plan import cache, kinds, memory, programs
from jaxdiff.plan.report import Cost, Report
from jaxdiff.training.compiled import state_template
from jaxdiff.training.task import Task

DATA_STD = 0.5  # in the place of what a run measures first; no cost depends on it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Means:
    """How a plan is made.

    Attributes:
      form: "compiled", "quick" or "plain".
      utilization: share of the peak that is assumed.
      use_cache: whether earlier answers of the compiler will do.
      full: whether TPUs' compiler writes machine code too.
    """

    form: str = "compiled"
    utilization: float = 0.4
    use_cache: bool = True
    full: bool = False


def plannable(config):
    """A config whose process can be made before a run has measured its data."""
    if isinstance(config.diffusion, EDM) and not config.diffusion.data_std:
        return replaced(config, {"diffusion.data_std": DATA_STD})
    return config


def of_training(config, topology, means):
    """The Report of training a config.

    Args:
      config: a RunConfig.
      topology: a Topology.
      means: a Means.

    Raises:
      UserError: for a batch or fsdp that the devices do not divide, or a compiler that is missing.
    """
    config, training = plannable(config), config.training
    mesh = _mesh(topology, config.mesh.fsdp, means)
    with user_errors():
        check_batch_size(training.batch_size, mesh, training.accumulate)
    template = state_template(Task.of(config), mesh)
    known = memory.of_training(config, template, mesh.size)
    flops = _training_flops(_alone(config))
    # What the mathematics asks for: without what remat computes again.
    useful = _training_flops(replaced(_alone(config), {"training.remat": False}))
    if means.form == "quick":
        from jaxdiff.plan import quick

        costs = quick.estimate_training(config, topology, mesh, means.use_cache)
    elif means.form == "compiled":
        made = programs.training(config, mesh)
        pairs = zip(made, flops, strict=True)
        costs = tuple(_compiled(p, topology, known, own, means) for p, own in pairs)
    else:
        costs = (Cost(name="training step", turns=1, form="plain", memory=known),)
    return Report(
        doing="training",
        topology=topology,
        fsdp=config.mesh.fsdp,
        batch_size=training.batch_size,
        images=training.num_steps * training.batch_size,
        costs=with_flops(costs, flops, useful, topology),
        utilization=means.utilization,
        about={
            "remat": training.remat,
            "accumulate": training.accumulate,
            "dtype": training.dtype,
            "num_steps": training.num_steps,
        },
        notes=_notes(topology, means, mesh),
    )


def of_sampling(job_on, topology, means, num_samples):
    """The Report of sampling.

    Args:
      job_on: mesh -> a jaxdiff.sampling.job.Job of one batch.
      topology: a Topology.
      means: a Means.
      num_samples: how many samples are wanted in all.

    Raises:
      UserError: for a batch that the devices do not divide, or a compiler that is missing.
    """
    mesh = _mesh(topology, 1, means)
    plain = job_on(here())
    size = plain.batch_size
    if size % mesh.size:
        raise UserError(
            f"--batch_size {size} is not divided by the {mesh.size} devices of {topology}: make it "
            f"a multiple of {mesh.size}."
        )
    known = {"parameters": memory.size_of(programs.parameters(plain))}
    flops = counted(programs.sampling(plain))
    if means.form == "quick":
        from jaxdiff.plan import quick

        one = job_on(quick.one_device(topology))
        costs = quick.estimate_sampling(one, topology, mesh, means.use_cache)
    elif means.form == "compiled":
        made = programs.sampling(job_on(mesh))
        pairs = zip(made, flops, strict=True)
        costs = tuple(_compiled(p, topology, known, own, means) for p, own in pairs)
    else:
        costs = tuple(
            Cost(name=p.name, turns=p.turns, form="plain", memory=known)
            for p in programs.sampling(plain)
        )
    return Report(
        doing="sampling",
        topology=topology,
        fsdp=1,
        batch_size=size,
        images=num_samples,
        costs=with_flops(costs, flops, flops, topology),
        utilization=means.utilization,
        about={"evaluations": plain.evaluations, "num_steps": plain.grid.num_steps},
        notes=_notes(topology, means, mesh),
    )


def here():
    """A mesh of one device of this machine, for which programs are traced as they are written."""
    return make_mesh(devices=jax.devices("cpu")[:1])


def _alone(config):
    """The config with what changes no number of operations left out."""
    return replaced(config, {"mesh.fsdp": 1, "training.accumulate": 1})


@functools.cache
def _training_flops(config):
    return counted(programs.training(config, here()))


def counted(made):
    """Of each Program {kind: operations of a turn}, of all devices."""
    return [counts.flops_by_kind(program.jaxpr()) for program in made]


def with_flops(costs, flops, useful, topology):
    """Costs with their operations."""
    peak = topology.size * topology.chip.bf16_flops
    return tuple(
        dataclasses.replace(
            cost,
            flops=own,
            useful=float(sum(plain.values())),
            seconds=cost.seconds or {kind: number / peak for kind, number in own.items()},
        )
        for cost, own, plain in zip(costs, flops, useful, strict=True)
    )


def _notes(topology, means, mesh):
    if topology.chip.platform == "tpu" or means.form == "plain" or attention_for(mesh):
        return ()
    return (
        "cuDNN is not installed here, so attention is the plain one: with it, as on GPUs, less is "
        "kept and moved.",
    )


def _mesh(topology, fsdp, means):
    """The devices of a topology; of the plain form, only how many there are."""
    with user_errors():
        if means.form != "plain":
            return make_mesh(fsdp, topology.devices())
        if topology.size % fsdp:
            raise ValueError(
                f"mesh.fsdp {fsdp} does not divide the {topology.size} devices: choose a divisor."
            )
        return AbstractMesh((topology.size // fsdp, fsdp), ("data", "fsdp"))


def _compiled(program, topology, known, flops, means):
    """The Cost of a Program as it is compiled."""
    answer, chip = cache.compiled(program, topology, means.use_cache, means.full), topology.chip
    cost = Cost(
        name=program.name,
        turns=program.turns,
        form="compiled",
        memory={"together": answer.get("needed", 0)},
        compile_s=answer["compile_s"],
        fits="needed" not in answer,
    )
    if not cost.fits:
        return cost
    moved = kinds.traffic(answer["hlo"])
    here = {kind: number / topology.size for kind, number in flops.items()}
    return dataclasses.replace(
        cost,
        memory=memory.compiled(answer["stats"], known),
        traffic=moved.by_kind("padded"),
        seconds=moved.seconds_by_kind(chip.bf16_flops, chip.hbm_bandwidth, here),
        collectives=kinds.collectives(answer["hlo"]),
    )
