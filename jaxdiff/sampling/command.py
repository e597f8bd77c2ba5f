"""Samples a trained model into a folder, or continues the sampling job that the folder holds.

python sample.py --model runs/NAME --num_samples 100 --out samples/NAME

The same command may run many times at once, on any hosts that see the folder: they share the work.
"""

import dataclasses
from typing import Annotated, Literal

import numpy as np

from jaxdiff import cli
from jaxdiff.config import (
    ADM,
    APG,
    CADS,
    CFG,
    DDIM,
    DDPM,
    ICG,
    Autoguidance,
    ClassifierGuidance,
    DPMpp,
    Heun,
    Image,
    Label,
    Range,
    Schedule,
    Tokens,
    Vector,
)
from jaxdiff.config.fields import hints, meanings
from jaxdiff.config.guidance import SHAPES
from jaxdiff.config.overrides import parsed
from jaxdiff.config.training import Seed
from jaxdiff.errors import UserError
from jaxdiff.numbers import whole

NUM_SAMPLES, MOST_CLASSES, MOST_PARTS = 64, 2**20, 2**20
SAMPLERS = {cls.kind: cls for cls in (DDPM, DDIM, Heun, DPMpp)}
COMMON = ("steps", "sigma_min", "sigma_max", "rho", "clip")
CHURN = ("churn", "churn_min", "churn_max", "churn_noise")
ON_GRID = ("sigma_min", "sigma_max", "rho")
# Flags that need another.
NEEDED = {"icg": "cfg", "weight": "guide", "guide_null": "guide", "classifier_scale": "classifier"}
Count = Annotated[int, Range(1, 2**31 - 1)]


def main():
    """The command line of sampling."""
    cli.run(_sample, parser())


def parser():
    """The flags."""
    made = cli.Parser(__doc__)

    def add(name, hint=str, default=None, help="", repeated=False):
        cli.add_flag(made, name, hint, default, help, repeated)

    add("model", help="The run to sample: FOLDER[@STEP][:ema=LENGTH,dropout=RATE]")
    add("out", help="Folder of the results")
    add("num_samples", Count, help=f"How many samples; default: {NUM_SAMPLES}, or as in the files")
    add(
        "batch_size",
        Count,
        help="How many at once, over all devices of a process; default: 128, or 16 for each device "
        "where that is more",
    )
    add("seed", Seed, 0, "Of everything random; sample n of a seed is the same in every batch size")
    add("classes", help="Labels that are taken in turn, such as 0,3,5-9; default: all")
    add(
        "cond",
        help="Conditions of each sample: an npz file of arrays by name, or samples of another run, "
        "whose images become the condition that is an image and whose labels the label",
    )
    add("cond_split", help="Take the conditions of this split of the run's data")
    add_method(made)
    add("latents", help="Noise to start from, as jaxdiff.sampling.encode writes it")
    add("together", bool, help="One batch for all conditions of a network; default: not on CPUs")
    add(
        "shard",
        help="I/N: sample part I, from 0, of N parts of the job; default: every process samples "
        "shards that no other has taken",
    )
    add("shard_size", Count, help="Samples of a shard; default: 1024, or as the folder has it")
    cli.add_imports(made)
    return made


def add_method(made):
    """Adds the flags of the sampler and of guidance, which `sampler_of` and `guidance_of` read."""

    def add(name, hint=str, default=None, help="", repeated=False):
        cli.add_flag(made, name, hint, default, help, repeated)

    add("sampler", Literal[*SAMPLERS], help="Default: the run's")
    cli.add_settings(made, DDPM, COMMON)
    cli.add_settings(made, DDIM, ("eta",))
    cli.add_settings(made, Heun, CHURN)
    add("guide", help="Autoguidance: a weaker network; repeatable", repeated=True)
    add("weight", float, help="Its weight, for each --guide; 1 disables it", repeated=True)
    add(
        "guide_null",
        float,
        help="As --weight, for the guide under the null condition",
        repeated=True,
    )
    add("cfg", float, help=f"{_about(CFG)} Its weight; 1 disables it")
    add("icg", bool, False, f"{_about(ICG)} Its weight is that of --cfg")
    shapes = ", ".join(",".join([name, *map(str.upper, v)]) for name, v in SHAPES.items())
    add(
        "schedule",
        help=f"Shape of the weight over the steps: {shapes}; for all references, or for each",
        repeated=True,
    )
    add(
        "interval",
        tuple[float, ...],
        help="LOW,HIGH in sigma/alpha: guide at those levels only; for all guidance, or for each",
        repeated=True,
    )
    add("cads", tuple[float, ...], help=f"{_form(CADS)}: {_about(CADS)}")
    add("apg", tuple[float, ...], help=f"{_form(APG)}: {_about(APG)}")
    add(
        "rescale",
        float,
        help="CFG rescale: phi, from 0 to 1, the share that is rescaled to D_main's deviation",
    )
    add("classifier", help=f"{_about(ClassifierGuidance)} The run of a classifier")
    scale = meanings(ClassifierGuidance)["scale"]
    add("classifier_scale", float, help=f"{scale} Default: 1")


def _about(cls):
    return cls.__doc__.strip().splitlines()[0]


def _form(cls):
    """Such as TAU1,TAU2,SCALE[,MIX]."""
    needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    rest = [name for name in hints(cls) if name not in needed]
    form = ",".join(map(str.upper, needed or rest[:1]))
    more = rest if needed else rest[1:]
    return form + "".join(f"[,{name.upper()}" for name in more) + "]" * len(more)


def _sample(args):
    text = cli.require("model", args.model, "the folder of a run, such as runs/NAME")
    out = cli.require("out", args.out, "a folder such as samples/NAME")
    guidance, part = guidance_of(args), part_of(args.shard)
    found = cli.start_jax_alone()
    # Imported here, so that --help and a misspelt flag are answered at once.
    from jaxdiff import files
    from jaxdiff.parallel import processes
    from jaxdiff.sampling import run_sampling
    from jaxdiff.sampling.shards import Place

    place = Place(*part, is_fixed=True) if part else Place()
    if found is not None and not part:
        place = Place(found.process_id, found.num_processes)
    out = files.parse_path(out, "--out")
    with processes.alone():
        job = _job(args, text, guidance)
        run_sampling.run(job, out, args.shard_size, place)


def part_of(text):
    """(i, n) of a text such as "3/16"; None of None.

    Raises:
      UserError: for a text that names no part.
    """
    if text is None:
        return None
    index, _, count = text.partition("/")
    index, count = whole(index, MOST_PARTS), whole(count, MOST_PARTS)
    if index is None or not count:
        raise UserError(f"--shard is {text!r}: give I/N, part I of N, such as 0/16 to 15/16.")
    if index >= count:
        raise UserError(f"--shard is {text}, and the last of {count} parts is {count - 1}/{count}.")
    return index, count


def _job(args, text, guidance):
    """The job of the flags, on the devices of this process."""
    import jax

    from jaxdiff.memory import device_memory
    from jaxdiff.parallel.mesh import make_mesh
    from jaxdiff.sampling.job import least_fsdp
    from jaxdiff.sampling.trained_model import load

    devices, model = jax.local_devices(), load(text)
    cond, start = conditions_of(args, model)
    job = _job_on(make_mesh(devices=devices), args, model, guidance, cond, start)
    fsdp = least_fsdp(job.pipeline.shapes, len(devices), device_memory())
    if fsdp == 1:
        return job
    print(f"The parameters are split over {fsdp} devices each, as one has too little memory.")
    return _job_on(make_mesh(fsdp, devices), args, model, guidance, cond, start)


def _job_on(mesh, args, model, guidance, cond, start):
    """The job of the flags on a mesh."""
    each = _one_each(cond, start, model.config)
    n = args.num_samples or min(map(len, each.values()), default=NUM_SAMPLES)
    return dataclasses.replace(model, mesh=mesh).job(
        n,
        seed=args.seed,
        cond={name: array[:n] if name in each else array for name, array in cond.items()},
        sampler=sampler_of(args, model.config),
        guidance=guidance,
        combiner=settings_of(APG, "apg", args.apg),
        rescale=args.rescale,
        cads=settings_of(CADS, "cads", args.cads),
        batch_size=args.batch_size,
        start=each["start"][:n] if "start" in each else start,
        together=args.together,
    )


def _one_each(cond, start, config):
    """{name: array} of the arrays of a file that hold one value for each sample."""
    axes = {Label: 0, Vector: 1, Tokens: 2, Image: 3}  # of one value
    axes = {"mask": 1, **{c.name: axes.get(type(c), 0) for c in config.model.conditions}}
    given = {**cond, "start": start}
    axes["start"] = len(config.signature.shape)
    return {
        name: array
        for name, array in given.items()
        if isinstance(array, np.ndarray) and array.ndim > axes.get(name, 0)
    }


def sampler_of(args, config):
    """The sampler that flags ask for: the run's with what they set instead.

    Raises:
      UserError: for a flag that the sampler or the run's process does not use.
    """
    kind = args.sampler or (DDIM.kind if getattr(args, "latents", None) else None)
    own = config.sampling
    cls = type(own) if kind in (None, own.kind) else SAMPLERS[kind]
    values = {name: getattr(own, name) for name in hints(cls) if name in hints(type(own))}
    given = {name: getattr(args, name, None) for name in (*COMMON, "eta", *CHURN)}
    given = {name: value for name, value in given.items() if value is not None}
    on_timesteps = isinstance(config.diffusion, ADM) and cls in (DDPM, DDIM)
    for name, value in given.items():
        if name not in hints(cls) or (on_timesteps and name in ON_GRID):
            fit = [n for n in hints(cls) if not (on_timesteps and n in ON_GRID)]
            raise UserError(
                f"--{name} {value} has no meaning for the sampler {cls.kind} of this model, which "
                f"takes {', '.join(fit)}: leave it out, or choose another --sampler."
            )
    return cls(**{**values, **given})


def guidance_of(args):
    """The guidance specs that flags ask for: CFG or ICG, guides, their null conditions, classifier.

    Raises:
      UserError: for flags that do not belong together.
    """
    given = {n for n, v in vars(args).items() if v is not None and v is not False and v != []}
    for flag, other in NEEDED.items():
        if flag in given and other not in given:
            raise UserError(f"--{flag} needs --{other}: add it, or leave --{flag} out.")
    for flag in ("weight", "guide_null"):
        if flag in given and len(getattr(args, flag)) != len(args.guide):
            raise UserError(f"--{flag} is not given once for each --guide: give as many, in order.")
    if args.guide and not given & {"weight", "guide_null"}:
        raise UserError(f"--guide {args.guide[0]} has no weight: add --weight, such as 2.")
    specs = [] if args.cfg is None else [ICG(args.cfg) if args.icg else CFG(args.cfg)]
    specs += [Autoguidance(*each) for each in zip(args.guide, args.weight, strict=False)]
    nulls = zip(args.guide, args.guide_null, strict=False)
    specs += [Autoguidance(*each, null=True) for each in nulls]
    specs = _with_each(specs, "schedule", [_schedule(text) for text in args.schedule])
    if args.classifier is not None:
        scale = 1.0 if args.classifier_scale is None else args.classifier_scale
        specs.append(ClassifierGuidance(args.classifier, scale))
    return _with_each(specs, "interval", args.interval)


def _with_each(specs, field, values):
    """Specs with a field set to one value for all, or to one for each."""
    if not values:
        return specs
    if not specs or len(values) not in (1, len(specs)):
        raise UserError(
            f"--{field} is given {len(values)} times for {len(specs)} guidance methods: give it "
            "once for all, or once for each."
        )
    values = values * len(specs) if len(values) == 1 else values
    return [dataclasses.replace(s, **{field: v}) for s, v in zip(specs, values, strict=True)]


def _schedule(text):
    """The Schedule of a text such as "clamp-cosine,2"."""
    shape, *values = text.split(",")
    return Schedule(shape, tuple(parsed(value, float, "--schedule") for value in values))


def settings_of(cls, flag, values):
    """Settings of values in their order, such as CADS(.6, .9, .1); None of None."""
    if values is None:
        return None
    required = sum(f.default is dataclasses.MISSING for f in dataclasses.fields(cls))
    if not max(required, 1) <= len(values) <= len(hints(cls)):
        raise UserError(f"--{flag} has {len(values)} values: give {_form(cls)}.")
    return cls(*values)


def conditions_of(args, model):
    """({name: array [N, ...]}, noise [N, ...] to start from or None) that flags name.

    Raises:
      UserError: for files or a split that do not hold them.
    """
    given = [name for name in ("cond", "cond_split", "latents") if getattr(args, name) is not None]
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)} each give conditions: give one of them.")
    cond, start = {}, None
    if args.cond_split is not None:
        from jaxdiff.data.source import open_split

        source = open_split(model.config.data, args.cond_split, model.config.model.conditions)
        cond = source.fetch(range(min(args.num_samples or NUM_SAMPLES, len(source))))["cond"]
    elif given:
        cond, start = _read(args, given[0], model)
    if args.classes is not None:
        cond |= _classes(args, model, cond)
    return cond, start


def _read(args, flag, model):
    """(conditions by name, what sampling starts from: arr_0 of --latents) of an npz file."""
    from jaxdiff import files
    from jaxdiff.sampling.finite import refuse_marked
    from jaxdiff.sampling.samples import load_arrays, samples_file

    label = _label(args, model)
    path = samples_file(files.parse_path(getattr(args, flag), f"--{flag}"))
    arrays = load_arrays(path, label and label.name)
    refuse_marked(arrays, path)
    start = arrays.pop("arr_0", None) if flag == "latents" else None
    if flag == "latents" and start is None:
        raise UserError(f"--latents {path} has no array arr_0: give a file of latents.")
    own = [each.name for each in model.config.model.conditions if isinstance(each, Image)]
    if (images := arrays.pop("arr_0", None)) is not None and own:
        arrays.setdefault(own[0], images)
    return arrays, start


def _label(args, model):
    """The label that is sampled: the model's, or the classifier's that guides it; None: none."""
    from jaxdiff.sampling.trained_model import load

    if model.config.label is None and args.classifier is not None:
        return load(args.classifier).config.label
    return model.config.label


def _classes(args, model, cond):
    """{name of the label: the classes of --classes}, which are taken in turn."""
    if (label := _label(args, model)) is None:
        raise UserError(f"{model} was trained without labels: leave --classes out.")
    if label.name in cond:
        raise UserError(f"--classes {args.classes} and a file give labels: leave one of them out.")
    return {label.name: parse_classes(args.classes)}


def parse_classes(text):
    """The classes that a text such as "0,3,5-9" names.

    Raises:
      UserError: for a text that cannot be read.
    """
    classes = []
    for part in text.split(","):
        ends = [whole(end.strip(), MOST_CLASSES) for end in part.split("-")]
        if None in ends or len(ends) > 2 or ends[0] > ends[-1]:
            raise UserError(f"--classes {text} holds {part!r}: give classes, as in 0,3,5-9.")
        classes += range(ends[0], ends[-1] + 1)
    return classes
