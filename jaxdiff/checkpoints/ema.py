"""Rebuilds averages of many lengths at one step of a run, reading each snapshot once.

    python -m jaxdiff.checkpoints.ema runs/a --step 20000 --length 0.02,0.04,0.06
    python -m jaxdiff.checkpoints.ema runs/a --step 20000 --length 0.02,0.04,0.06 --out runs/a_emas

Without --out they are kept under the run, where `runs/a@20000:ema=0.02` finds them. With --out they
become the one snapshot of a run's folder of their own, which needs the first no longer: then
`runs/a_emas:ema=0.02` names one. docs/post_hoc_ema.md has the equations.
"""

import contextlib
import pathlib
import shutil

import jax
from absl import flags

from jaxdiff import cli
from jaxdiff.checkpoints import checkpointer, posthoc_ema
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run, new_run
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, placed


def table(plan):
    """Markdown: how each average is rebuilt, and how well."""
    solution = plan.solution
    lines = [
        "| length | snapshots | norm of coefficients | residual | estimated error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for m, length in enumerate(plan.lengths):
        lines.append(
            f"| {length:g} | {1 if plan.tracked(length) else len(plan.snapshots)} "
            f"| {solution.norm[m]:.3g} | {solution.residual[m]:.2g} | {solution.error[m]:.2g} |"
        )
    return "\n".join(lines)


def template(plan):
    """Of one average, split over all devices; the latest snapshot says its shapes.

    Raises:
      UserError: if that snapshot is damaged.
    """
    folder = plan.folder / "snapshots"
    try:
        shapes = checkpointer.shapes(folder, plan.step, "ema")[plan.snapshots[-1].profiles[0]]
    except checkpointer.CorruptCheckpoint as error:
        raise UserError(f"{folder / str(plan.step)} is damaged: {error}.") from None
    shapes = jax.tree.map(lambda leaf: leaf.update(dtype="float32"), shapes)
    return placed(shapes, parameter_sharding(make_mesh(len(jax.devices())), shapes))


def fill(folder, lengths, step):
    """Rebuilds those averages that are not kept under the run yet; returns how many.

    Raises:
      UserError: if the run's folder cannot be written.
    """
    plan = posthoc_ema.plan(folder, lengths, step)
    lengths = [
        length
        for length in plan.lengths
        if not plan.tracked(length) and not posthoc_ema.is_kept(plan, length)
    ]
    if lengths:
        plan = posthoc_ema.plan(folder, lengths, step)
        totals = posthoc_ema.rebuild(plan, template(plan))
        with checkpointer.writing(plan.folder, "make room, or give --out another folder"):
            posthoc_ema.keep(plan, totals)
    return len(lengths)


def export(folder, lengths, step, out):
    """Makes a run whose one snapshot holds the averages, as if it had tracked them.

    Raises:
      UserError: if `out` is not empty, or cannot be written; then it is empty as before.
    """
    with new_run(out) as run:
        _export(posthoc_ema.plan(folder, lengths, step), run)


def _export(plan, run):
    config = Run(plan.folder).config()
    config.training.power_ema = plan.lengths
    config.training.snapshot_dtype = "float32"
    names = [profile_name(length) for length in plan.lengths]
    totals = dict(zip(names, posthoc_ema.rebuild(plan, template(plan)), strict=True))
    meta = {"step": plan.step, "batch": plan.step, "ema": names}
    try:
        with checkpointer.writing(run.folder, checkpointer.ANOTHER):
            with contextlib.closing(checkpointer.Store(run.snapshots)) as snapshots:
                snapshots.save(plan.step, {"ema": totals}, meta)
            # Last: it makes the folder a run, which it is once the averages are there.
            checkpointer.together(run.folder, run.write_config, config, advice=checkpointer.ANOTHER)
    except checkpointer.WriteError:
        if processes.is_first():
            shutil.rmtree(run.snapshots, ignore_errors=True)
        raise


def main(folder):
    """Prints the table, then rebuilds."""
    values = flags.FLAGS
    cli.use_compilation_cache()
    processes.initialize(values.distributed)
    texts = cli.require("length", values.length, "lengths such as 0.05,0.1")
    lengths = list(dict.fromkeys(cli.number("length", text) for text in texts))
    Run(pathlib.Path(folder)).config()  # refuses what is no run
    plan = posthoc_ema.plan(folder, lengths, values.step)
    if processes.is_first():
        print(table(plan), flush=True)
    posthoc_ema.check(plan)
    if values.out:
        export(folder, lengths, plan.step, values.out)
        done = f"{len(lengths)} averages at step {plan.step}: {values.out}"
    else:
        count = fill(folder, lengths, plan.step)
        done = f"Rebuilt {count} averages at step {plan.step}: {plan.folder / 'ema'}"
        if count < len(lengths):
            done += f"; {len(lengths) - count} were there already"
    if processes.is_first():
        print(done)


if __name__ == "__main__":
    flags.DEFINE_integer("step", None, "Of a snapshot; default: the latest.", lower_bound=0)
    flags.DEFINE_list("length", [], "Lengths (sigma_rel), separated by commas.")
    flags.DEFINE_string("out", None, "Folder of a run to make; default: keep them in this one.")
    flags.DEFINE_bool("distributed", False, "Join other hosts.")
    cli.run(main, "the folder of a run")
