"""Averages of any length, rebuilt from a run's snapshots; `power_ema.py` has the mathematics.

RUN/snapshots/<step>/         what training tracked, read one step at a time
RUN/ema/<length>/<step>/      a cache of what was rebuilt, with what it was rebuilt from
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.power_ema import ROUNDING, Solution, profile_length, profile_name, solve
from jaxdiff.claims import in_first, lock
from jaxdiff.config.training import LONGEST_POWER_EMA, SHORTEST_POWER_EMA
from jaxdiff.errors import UserError
from jaxdiff.locks import LOCK
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, placed

# The largest estimated error that is let through. The L2 distance between two short profiles whose
# lengths differ by a share d is about .7 d of their norm, so .1 is as far off as a length that is
# missed by 14 %, and searches over lengths take longer steps than that. Two profiles, .05 and .10,
# reach lengths .02 and .25 with 20 snapshots (.087 and .06), and .01 with 80 (.04; .13 with 40).
# Five snapshots reach .035 to .16.
TRUSTED = 0.1


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The power-function averages of one step.

    Attributes:
      step: of training.
      profiles: their names.
      dtype: that they are stored with, "float32" or "bfloat16".
      sha256: of the fingerprints of all values.
    """

    step: int
    profiles: tuple[str, ...]
    dtype: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """How averages of one step will be rebuilt.

    Attributes:
      folder: the run's.
      step: their last step, which is a snapshot's.
      lengths: [M], sigma_rel of each.
      snapshots: those up to the step, in order; later ones say nothing of it that lasts.
      solution: rows are the snapshots' profiles, in their order; columns are the lengths.
    """

    folder: epath.Path
    step: int
    lengths: tuple[float, ...]
    snapshots: tuple[Snapshot, ...]
    solution: Solution

    def tracked(self, length):
        """Whether training itself kept the average of this length at the step."""
        return profile_name(length) in self.snapshots[-1].profiles

    def origin(self):
        """JSON value that changes when anything that the averages are rebuilt from does."""
        return [[s.step, list(s.profiles), s.sha256] for s in self.snapshots]


def plan(folder, lengths, step=None):
    """Finds the snapshots, and the coefficients; reads none of the arrays. Every process asks.

    Args:
      folder: the run's.
      lengths: sigma_rel of the wanted averages.
      step: of one of the run's snapshots; None: of the latest.

    Raises:
      UserError: for a length outside [1e-9, .2887), a step without a snapshot, and a run that
        tracks no power-function average or whose snapshots' metadata cannot be read.
    """
    for length in lengths:
        if not SHORTEST_POWER_EMA <= length < LONGEST_POWER_EMA:
            raise UserError(
                f"No average has the length {length}: it must be from {SHORTEST_POWER_EMA:g} to "
                f"{LONGEST_POWER_EMA:.4f}, where all steps have the same weight."
            )
    steps = checkpointer.complete_steps(folder / "snapshots")
    if not steps:
        raise UserError(f"{folder} has no snapshots to rebuild an average from: train it further.")
    step = processes.agree(steps[-1]) if step is None else step
    if step not in steps:
        raise UserError(
            f"{folder} has no snapshot of step {step} to rebuild an average at: it has those of "
            f"{', '.join(map(str, steps))}."
        )
    snapshots = tuple(_snapshot(folder, s) for s in steps if s <= step)
    if not snapshots[-1].profiles:
        raise UserError(
            f"The snapshot of step {step} in {folder} holds the traditional average, and other "
            "lengths are rebuilt from power-function averages alone: leave ema= out, or train with "
            "training.power_ema=(0.05,0.1)."
        )
    solution = _solve(snapshots, lengths, step)
    return Plan(folder, step, tuple(lengths), snapshots, solution)


def _snapshot(folder, step):
    try:
        meta = checkpointer.read_meta(folder / "snapshots", step)
        sha256 = checkpointer.digest(meta)
    except checkpointer.CorruptCheckpoint as error:
        raise checkpointer.corrupt(folder / "snapshots", step, error) from None
    return Snapshot(
        step=step,
        profiles=tuple(name for name in meta["ema"] if profile_length(name) is not None),
        dtype=meta.get("dtype", "float32"),
        sha256=sha256,
    )


def _solve(snapshots, lengths, step):
    rows = [(profile_length(p), s.step, ROUNDING[s.dtype]) for s in snapshots for p in s.profiles]
    return solve(*zip(*rows, strict=True), lengths, step)


def check(plan):
    """Refuses averages that the snapshots are too few for.

    Raises:
      UserError: if an estimated error exceeds `TRUSTED`; names lengths that can be had.
    """
    worst = int(np.argmax(plan.solution.error))
    if plan.solution.error[worst] <= TRUSTED:
        return
    others = np.arange(1, 29) / 100
    errors = _solve(plan.snapshots, others, plan.step).error
    good = [f"{length:g}" for length in others[errors <= TRUSTED]]
    raise UserError(
        f"The average of length {plan.lengths[worst]} at step {plan.step} of {plan.folder} cannot "
        f"be trusted: from {len(plan.snapshots)} snapshots its estimated error is "
        f"{plan.solution.error[worst]:.2g}, and more than {TRUSTED} is refused; choose another "
        f"length ({', '.join(good) or 'none'} would do), or keep snapshots more often "
        "(training.snapshot_every)."
    )


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
    """Of one average, split over all devices; the latest snapshot has its shapes.

    Raises:
      UserError: if that snapshot is corrupt.
    """
    folder = plan.folder / "snapshots"
    try:
        shapes = checkpointer.shapes(folder, plan.step, "ema")[plan.snapshots[-1].profiles[0]]
    except checkpointer.CorruptCheckpoint as error:
        raise checkpointer.corrupt(folder, plan.step, error) from None
    shapes = jax.tree.map(lambda leaf: leaf.update(dtype="float32"), shapes)
    return placed(shapes, parameter_sharding(make_mesh(len(processes.devices())), shapes))


def rebuild(plan, template):
    """The averages of a plan, each snapshot read once and one in memory at a time.

    Args:
      plan: from `plan`.
      template: of one average: a tree of float32 jax.ShapeDtypeStruct with shardings.

    Returns:
      A list of M trees of float32 arrays, summed on the devices where they are.

    Raises:
      UserError: if a snapshot is corrupt.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), template),
        out_shardings=shardings,
    )
    totals = [zeros() for _ in plan.lengths]
    shares = iter(plan.solution.coefficients.astype(np.float32))
    for snapshot in plan.snapshots:
        rows = {name: next(shares) for name in snapshot.profiles}
        rows = {name: row for name, row in rows.items() if row.any()}
        if not rows:  # nothing but averages that were tracked is wanted
            continue
        parts = _read(plan.folder, snapshot, template, rows)
        for m, total in enumerate(totals):
            totals[m] = _add(total, parts, np.array([row[m] for row in rows.values()]))
        # Else the next snapshot would be read while this one is still waiting to be added.
        jax.block_until_ready(totals)
    return totals


@jax.jit(donate_argnums=0)
def _add(total, parts, shares):
    """Total + sum_i shares_i parts_i; products and sums, never a matmul of lower precision."""

    def add(total, *parts):
        return total + sum(s * p.astype(jnp.float32) for s, p in zip(shares, parts, strict=True))

    return jax.tree.map(add, total, *parts)


def _read(folder, snapshot, template, names):
    """The averages of these names in a snapshot, as they are stored, in their order."""
    stored = jax.tree.map(lambda leaf: leaf.update(dtype=snapshot.dtype), template)
    wanted = {"ema": dict.fromkeys(names, stored)}
    try:
        items, _ = checkpointer.read(folder / "snapshots", snapshot.step, wanted, partly=True)
    except checkpointer.CorruptCheckpoint as error:
        raise checkpointer.corrupt(folder / "snapshots", snapshot.step, error) from None
    return [items["ema"][name] for name in names]


def average(folder, length, step, template):
    """The average of a length at a step: tracked, kept from an earlier time, or rebuilt and kept.

    What is rebuilt is printed with its estimated error. A run that cannot be written to, such as
    somebody else's, is read all the same.

    Args:
      folder: the run's.
      length: sigma_rel.
      step: of a snapshot.
      template: as for `rebuild`.

    Raises:
      UserError: as `plan`, `check` and `rebuild`.
    """
    wanted = plan(folder, (length,), step)
    check(wanted)
    if is_kept(wanted, length):
        with contextlib.suppress(checkpointer.CorruptCheckpoint):
            return _read_kept(wanted, length, template)
    (total,) = rebuild(wanted, template)
    if wanted.tracked(length):
        return total
    _say(
        f"Average {length:g} of {folder} at step {step}: from {len(wanted.snapshots)} snapshots, "
        f"estimated error {wanted.solution.error[0]:.2g}"
    )
    if processes.count() != jax.process_count():
        _say("It is not kept: orbax would wait for the other processes that JAX knows of.")
        return total
    try:
        in_first(files.make_folder, folder / "ema")
        with lock(folder / "ema" / LOCK, f"The folder {folder / 'ema'}", wait=False):
            keep(wanted, [total])
    except files.WriteError as error:
        _say(f"It is not kept, as {folder / 'ema'} cannot be written ({error.reason}).")
    except UserError:
        pass  # another program holds the lock: it has rebuilt the average too, and keeps it
    return total


def _say(text):
    if processes.is_first():
        print(text, flush=True)


def is_kept(plan, length):
    """Whether the average is under RUN/ema, rebuilt from the very snapshots of the plan."""
    fresh, folder = False, _kept(plan, length)
    if plan.step in checkpointer.complete_steps(folder):
        with contextlib.suppress(checkpointer.CorruptCheckpoint):
            meta = checkpointer.read_meta(folder, plan.step)
            fresh = meta.get("snapshots") == plan.origin()
    return not processes.any_process(not fresh)


def _kept(plan, length):
    return plan.folder / "ema" / str(float(length))


def _read_kept(plan, length, template):
    """The average under RUN/ema; raises CorruptCheckpoint in all processes if in any."""
    name = profile_name(length)
    items, _ = checkpointer.read(_kept(plan, length), plan.step, {"ema": {name: template}})
    return items["ema"][name]


def keep(plan, totals):
    """Puts averages under RUN/ema, in place of what was there.

    Raises:
      files.WriteError: if one cannot be written.
    """
    for m, total in enumerate(totals):
        length, name = plan.lengths[m], profile_name(plan.lengths[m])
        folder = _kept(plan, length)
        in_first(checkpointer.remove, folder / str(plan.step))  # of other snapshots, or corrupt
        meta = {
            "ema": [name],
            "residual": float(plan.solution.residual[m]),
            "error": float(plan.solution.error[m]),
            "snapshots": plan.origin(),
        }
        with contextlib.closing(checkpointer.Checkpointer(folder)) as steps:
            steps.save(plan.step, {"ema": {name: total}}, meta)


def fill(folder, lengths, step):
    """Rebuilds those averages that are not kept under the run yet; returns how many.

    Raises:
      files.WriteError: if the run's folder cannot be written.
    """
    wanted = plan(folder, lengths, step)
    missing = [n for n in lengths if not wanted.tracked(n) and not is_kept(wanted, n)]
    if missing:
        wanted = plan(folder, missing, step)
        keep(wanted, rebuild(wanted, template(wanted)))
    return len(missing)
