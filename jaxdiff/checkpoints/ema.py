"""Rebuilds averages of many lengths at one step of a run, reading each snapshot once.

    python -m jaxdiff.checkpoints.ema runs/a --step 20000 --length 0.02,0.04,0.06
    python -m jaxdiff.checkpoints.ema runs/a --step 20000 --length 0.02,0.04,0.06 --out runs/a_emas

Without --out they are kept under the run, where `runs/a@20000:ema=0.02` finds them. With --out they
become the one snapshot of a run's folder of their own, which needs the first no longer: then
`runs/a_emas:ema=0.02` names one. docs/post_hoc_ema.md has the equations.
"""

from typing import Annotated

from jaxdiff import cli
from jaxdiff.config import Range


def main():
    """The command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("run", help="the folder of a run")
    step = Annotated[int, Range(0, 2**31 - 1)] | None
    cli.add_flag(parser, "step", step, help="Of a snapshot; default: the latest")
    cli.add_flag(parser, "length", tuple[float, ...], (), "Lengths (sigma_rel), such as 0.05,0.1")
    cli.add_flag(parser, "out", help="Folder of a run to make; default: keep them in this one")
    cli.add_distributed(parser)
    cli.add_imports(parser)
    cli.run(_rebuild, parser)


def _rebuild(args):
    from jaxdiff import files
    from jaxdiff.checkpoints import posthoc_ema
    from jaxdiff.checkpoints.run import Run, export
    from jaxdiff.parallel import processes

    cli.start_jax(args.distributed, args.compilation_cache)
    run = Run(files.parse_path(args.run, "The run"))
    run.config()  # refuses what is no run
    lengths = tuple(dict.fromkeys(cli.require("length", args.length, "lengths such as 0.05,0.1")))
    plan = posthoc_ema.plan(run.folder, lengths, args.step)
    if processes.is_first():
        print(posthoc_ema.table(plan), flush=True)
    posthoc_ema.check(plan)
    if args.out:
        export(plan, files.parse_path(args.out, "--out"))
        done = f"{len(lengths)} averages at step {plan.step}: {args.out}"
    else:
        count = posthoc_ema.fill(run.folder, lengths, plan.step)
        done = f"Rebuilt {count} averages at step {plan.step}: {run.folder / 'ema'}"
        if count < len(lengths):
            done += f"; {len(lengths) - count} were there already"
    if processes.is_first():
        print(done)


if __name__ == "__main__":
    main()
