r"""Will it fit, and how fast can it be: compiles training or sampling for hardware that is absent.

python -m jaxdiff.plan --config configs/imagenet64_edm.py --topology v5e:8x8 --config.mesh.fsdp=8
python -m jaxdiff.plan --model runs/a --guide runs/guide --steps 32 --topology h100:8 \
    --batch_size 1024
"""

import dataclasses
from typing import Annotated

from jaxdiff import cli
from jaxdiff.config import APG, CADS, Range, replaced
from jaxdiff.config.overrides import read_config_file
from jaxdiff.config.training import Dtype
from jaxdiff.errors import UserError
from jaxdiff.plan import hardware
from jaxdiff.sampling.command import add_method, guidance_of, sampler_of, settings_of

GUIDES = ("guide", "classifier")  # fields of guidance specs that name a network
EACH = 16  # samples of a device
WEIGHT = 2.0  # of a guide, where none is given: any but 1 costs the same
Count = Annotated[int, Range(1, 2**31 - 1)]


def main():
    """The command line of plans."""
    cli.run(_plan, parser())


def parser():
    """The flags."""
    made = cli.Parser(__doc__)
    cli.add_config(made, required=False)
    cli.add_imports(made)

    def add(name, hint=str, default=None, help=""):
        cli.add_flag(made, name, hint, default, help)

    add("topology", help="Devices, such as v5e:8x8, v5e:8x8*2 (two slices), v5p:4x4x4 or h100:64")
    add("model", help="Plan sampling, in place of training: a run, or a config file")
    add("batch_size", Count, help=f"Samples at once over all devices; default: {EACH} a device")
    add("num_samples", Count, 50_000, "How many samples are wanted in all")
    add("dtype", Dtype, help="Type that sampled networks compute in; default: their config's")
    add_method(made)
    add("utilization", Annotated[float, Range(0, 1, above=True)], 0.4, "Assumed share of the peak")
    add("full", bool, False, "Let the TPU's compiler write machine code too: no more is known then")
    add("quick", bool, False, "Compile one block of each kind, and add up")
    add("plain", bool, False, "Compile nothing: operations, and the least that memory must hold")
    add("search", bool, False, "Try fsdp, accumulate and remat, and print the fastest that fit")
    add("cache", bool, True, "Whether an earlier answer of the compiler will do")
    add("json", help="File to write the numbers to")
    return made


def _plan(args):
    path = None
    if args.json:
        from jaxdiff import files

        path = files.parse_path(args.json, "--json")
        if files.is_folder(path):
            raise UserError(f"--json {args.json} is a folder: name a file.")
    found = reports(args)
    if args.search:
        from jaxdiff.plan.search import table

        print(table(found))
    else:
        from jaxdiff.plan.report import text

        print(text(found[0]))
    if path is not None:
        values = [report.values() for report in found]
        files.write_text(path, files.json_text(values if args.search else values[0]))


def reports(args):
    """The Reports that flags ask for: one, or those of a search.

    Raises:
      UserError: for flags that do not belong together, and what cannot be planned.
    """
    hardware.ready()
    text = cli.require("topology", args.topology, "one such as v5e:8x8 or h100:8")
    topology = hardware.parse_topology(text)
    if (args.config is None) == (args.model is None):
        raise UserError("Give --config FILE to plan training, or --model RUN to plan sampling.")
    if args.search and args.config is None:
        raise UserError("--search tries settings of training: give --config FILE, or leave it out.")
    if args.config is not None:
        _refuse_sampling(args)
    from jaxdiff.plan import plans, search

    means, notes = _means(args, topology)
    if args.search:
        found = search.fastest(args.config, topology, means)
    elif args.config is not None:
        found = [plans.of_training(args.config, topology, means)]
    else:
        found = [_sampling(args, topology, means)]
    return [dataclasses.replace(report, notes=report.notes + notes) for report in found]


def _refuse_sampling(args):
    """Raises UserError if flags of sampling are given to a plan of training."""
    both = {
        "config",
        "topology",
        "utilization",
        "full",
        "quick",
        "plain",
        "search",
        "cache",
        "json",
    }
    for name, default in vars(parser().parse_args([])).items():
        value = getattr(args, name, default)
        if name not in both and value != default:
            raise UserError(
                f"--{name} {value} is a flag of sampling, and --config plans training: leave it "
                "out, or give --model in the place of --config."
            )


def _means(args, topology):
    """(Means, notes): without a compiler the plain program has to do."""
    from jaxdiff.plan.plans import Means

    form, notes = "plain" if args.plain else "quick" if args.quick else "compiled", ()
    if (missing := topology.missing()) is not None:
        form, notes = "plain", (missing,)
    settings = {"utilization": args.utilization, "use_cache": args.cache, "full": args.full}
    return Means(form=form, **settings), notes


def _sampling(args, topology, means):
    """The Report of the request that flags name."""
    from jaxdiff.plan import plans, programs

    if args.guide and not (args.weight or args.guide_null):
        args.weight = [WEIGHT] * len(args.guide)
    specs, texts = guidance_of(args), {args.model, args.classifier, *args.guide} - {None}
    networks = {text: _network(text, args.dtype) for text in texts}
    size, config = args.batch_size or EACH * topology.size, networks[args.model].config

    def job_on(mesh):
        on = {text: dataclasses.replace(each, mesh=mesh) for text, each in networks.items()}
        guidance = []
        for spec in specs:
            named = {field: on[getattr(spec, field)] for field in GUIDES if hasattr(spec, field)}
            guidance.append(dataclasses.replace(spec, **named))
        return on[args.model].job(
            size,
            cond=programs.zero_conditions(config),
            sampler=sampler_of(args, config),
            guidance=guidance,
            combiner=settings_of(APG, "apg", args.apg),
            rescale=args.rescale,
            cads=settings_of(CADS, "cads", args.cads),
            batch_size=size,
            together=True,
        )

    return plans.of_sampling(job_on, topology, means, args.num_samples)


def _network(text, dtype):
    """The TrainedModel of a run, or one without parameters of a config file."""
    from jaxdiff.plan.plans import plannable
    from jaxdiff.sampling.trained_model import TrainedModel, load

    is_file = text.endswith(".py")
    model = TrainedModel(config=read_config_file(text)) if is_file else load(text)
    config = plannable(model.config)
    config = replaced(config, {"training.dtype": dtype}) if dtype else config
    return dataclasses.replace(model, config=config)
