"""Averages of any length, rebuilt from a run's snapshots; `posthoc.py` has the mathematics.

RUN/snapshots/<step>/         what training tracked, read one step at a time
RUN/ema/<length>/<step>/      what was rebuilt, kept with what it was rebuilt from
"""

import contextlib
import dataclasses
import errno
import pathlib
import secrets
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.power_ema import (
    LONGEST,
    ROUNDING,
    Solution,
    profile_length,
    profile_name,
    solve,
)
from jaxdiff.config import NUMBER_LISTS
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

# The largest estimated error that is let through. The L2 distance between two short profiles whose
# lengths differ by a share d is about .7 d of their norm, so .1 is as far off as a length that is
# missed by 14 %, and searches over lengths take longer steps than that. Two profiles, .05 and .10,
# reach lengths .02 and .25 with 20 snapshots (.087 and .06), and .01 with 80 (.04; .13 with 40).
# Five snapshots reach .035 to .16.
TRUSTED = 0.1
SHORTEST = NUMBER_LISTS["training.power_ema"]  # that a run may track
DAY = 24 * 60 * 60  # seconds


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

    folder: pathlib.Path
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
    """Finds the snapshots, and the coefficients; reads none of the arrays.

    Args:
      folder: the run's.
      lengths: sigma_rel of the wanted averages.
      step: of one of the run's snapshots; None: of the latest.

    Raises:
      UserError: for a length outside [1e-9, .2887), a step without a snapshot, and a run that
        tracks no power-function average or whose snapshots' metadata cannot be read.
    """
    folder = pathlib.Path(folder)
    for length in lengths:
        if not SHORTEST <= length < LONGEST:
            raise UserError(
                f"No average has the length {length}: it must lie between {SHORTEST:g} and "
                f"{LONGEST:.4f}, where all steps count alike."
            )
    steps = checkpointer.complete_steps(folder / "snapshots")
    if not steps:
        raise UserError(f"{folder} has no snapshots to rebuild an average from: train it further.")
    step = steps[-1] if step is None else step
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
        meta = checkpointer.read_meta(folder / "snapshots", step, ("ema",))
        sha256 = checkpointer.digest(meta)
    except checkpointer.CorruptCheckpoint as error:
        raise UserError(_about(folder, step, error)) from None
    return Snapshot(
        step=step,
        profiles=tuple(name for name in meta["ema"] if profile_length(name) is not None),
        dtype=meta.get("dtype", "float32"),
        sha256=sha256,
    )


def _solve(snapshots, lengths, step):
    rows = [(profile_length(p), s.step, ROUNDING[s.dtype]) for s in snapshots for p in s.profiles]
    return solve(*zip(*rows, strict=True), lengths, step)


def _about(folder, step, error):
    return (
        f"{folder / 'snapshots' / str(step)} is damaged: {error}; move it elsewhere, to rebuild "
        "averages without it."
    )


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


def rebuild(plan, template):
    """The averages of a plan, each snapshot read once and one in memory at a time.

    Args:
      plan: from `plan`.
      template: of one average: a tree of float32 jax.ShapeDtypeStruct with shardings.

    Returns:
      A list of M trees of float32 arrays, summed on the devices where they lie.

    Raises:
      UserError: if a snapshot is damaged.
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
    items, problem = None, None
    try:
        items, _ = checkpointer.read(
            folder / "snapshots",
            snapshot.step,
            {"ema": dict.fromkeys(names, stored)},
            partly=True,
        )
    except checkpointer.CorruptCheckpoint as error:
        problem = error
    if processes.any_process(problem is not None):
        raise UserError(_about(folder, snapshot.step, problem or "another process cannot read it"))
    return [items["ema"][name] for name in names]


def average(folder, length, step, template):
    """The average of a length at a step: tracked, kept from an earlier time, or rebuilt and kept.

    What is rebuilt is told with its estimated error. A run that cannot be written to, such as
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
        kept = _read_kept(wanted, length, template)
        if kept is not None:
            return kept
    (total,) = rebuild(wanted, template)
    if wanted.tracked(length):
        return total
    _say(
        f"Average {length:g} of {folder} at step {step}: from {len(wanted.snapshots)} snapshots, "
        f"estimated error {wanted.solution.error[0]:.2g}"
    )
    try:
        keep(wanted, [total])
    except checkpointer.WriteError as error:
        _say(f"It is not kept, as {folder / 'ema'} cannot be written ({error.reason}).")
    return total


def _say(text):
    if processes.is_first():
        print(text, flush=True)


def is_kept(plan, length):
    """Whether the average is under RUN/ema, rebuilt from the very snapshots of the plan."""
    fresh = False
    with contextlib.suppress(checkpointer.CorruptCheckpoint):
        fresh = (
            checkpointer.read_meta(_kept(plan, length), plan.step).get("snapshots") == plan.origin()
        )
    # Another job may put it there between one process's look and the next's.
    return not processes.any_process(not fresh)


def _kept(plan, length):
    return plan.folder / "ema" / str(float(length))


def _read_kept(plan, length, template):
    """The average under RUN/ema; None if it is damaged, as it can be rebuilt."""
    name, items = profile_name(length), None
    with contextlib.suppress(checkpointer.CorruptCheckpoint):
        items, _ = checkpointer.read(_kept(plan, length), plan.step, {"ema": {name: template}})
    return None if processes.any_process(items is None) else items["ema"][name]


def keep(plan, totals):
    """Puts averages under RUN/ema, each whole or not at all, in place of what was there.

    They are written beside their place, in a folder that no other job writes to.

    Raises:
      checkpointer.WriteError: if one cannot be written, which leaves what was there before.
    """
    scratch = plan.folder / "ema" / f".{processes.agree(secrets.randbits(31))}"
    try:
        checkpointer.together(scratch.parent, _make_scratch, scratch)
        for m, total in enumerate(totals):
            checkpointer.together(scratch.parent, _keep_one, plan, m, total, scratch / str(m))
    finally:
        if processes.is_first():
            shutil.rmtree(scratch, ignore_errors=True)
    processes.barrier("keep")


def _make_scratch(scratch):
    """Makes the folder, and removes those that killed jobs have left."""
    if not processes.is_first():
        return
    scratch.mkdir(parents=True)
    for other in scratch.parent.glob(".[0-9]*"):
        with contextlib.suppress(OSError):  # of a job that ends just now
            if time.time() - other.stat().st_mtime > DAY:
                shutil.rmtree(other, ignore_errors=True)


def _keep_one(plan, m, total, scratch):
    length, step = plan.lengths[m], plan.step
    meta = {
        "step": step,
        "ema": [profile_name(length)],
        "residual": float(plan.solution.residual[m]),
        "error": float(plan.solution.error[m]),
        "snapshots": plan.origin(),
    }
    with contextlib.closing(checkpointer.Store(scratch)) as folder:
        folder.save(step, {"ema": {profile_name(length): total}}, meta)
    if processes.is_first():
        _replace(scratch / str(step), _kept(plan, length) / str(step))


def _replace(new, place):
    place.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        place.rename(new.with_name("stale"))
    try:
        new.rename(place)
    except OSError as error:
        # Another job has done the same meanwhile, with the same values.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
