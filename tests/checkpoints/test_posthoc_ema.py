import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer, posthoc_ema
from jaxdiff.checkpoints.posthoc_ema import Snapshot, check, plan
from jaxdiff.checkpoints.power_ema import ROUNDING, profile_name
from jaxdiff.checkpoints.run import Run, export, resolve
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh
from tests.checkpoints import synthetic
from tests.checkpoints.synthetic import distance, make_run, template
from tests.disk import small_files


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("rebuild") / "run", every=40)


@pytest.fixture
def run(original, tmp_path):
    """A copy of a run with ten snapshots."""
    copied = epath.Path(tmp_path) / "run"
    shutil.copytree(original.folder, copied)
    return Run(copied)


def reads(monkeypatch):
    """Steps of snapshots in the order that their arrays are read in."""
    steps, read = [], checkpointer.read

    def noting(folder, step, *args, **kwargs):
        if folder.name == "snapshots":
            steps.append(step)
        return read(folder, step, *args, **kwargs)

    monkeypatch.setattr(checkpointer, "read", noting)
    return steps


def test_averages_are_rebuilt_better_from_more_snapshots(tmp_path, one_device):
    expected = synthetic.average(0.12, 400)
    far = distance(synthetic.average(0.1, 400), expected)
    errors = []
    for every in (80, 40, 20):
        run = make_run(tmp_path / str(every), every)
        got = posthoc_ema.average(run.folder, 0.12, 400, template(one_device))
        errors.append(distance(got, expected) / far)
    assert errors[0] < 0.2
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.005


def test_each_snapshot_is_read_once_for_all_lengths(run, one_device, monkeypatch):
    steps = reads(monkeypatch)
    lengths = (0.04, 0.1, 0.15)
    totals = posthoc_ema.rebuild(plan(run.folder, lengths, 320), template(one_device))
    assert steps == [40, 80, 120, 160, 200, 240, 280, 320]
    for length, total in zip(lengths, totals, strict=True):
        expected = synthetic.average(length, 320)
        assert distance(total, expected) < 0.03  # of values of about 2
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(total))
    # The tracked one as it is stored, to the bit.
    np.testing.assert_array_equal(totals[1]["bias"], np.float32(expected_bias(0.1, 320)))


def expected_bias(length, step):
    return synthetic.average(length, step)["bias"]


def test_sharded_averages_are_those_of_one_device(run, one_device):
    wanted = plan(run.folder, (0.07,))
    (one,) = posthoc_ema.rebuild(wanted, template(one_device))
    (many,) = posthoc_ema.rebuild(wanted, template(make_mesh(8)))
    kernel = many["layer"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(128, 32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, many)


def test_bfloat16_snapshots_are_off_by_their_rounding(tmp_path, one_device):
    run = make_run(tmp_path / "run", 40, dtype="bfloat16")
    wanted = plan(run.folder, (0.03,))
    solution = wanted.solution
    np.testing.assert_allclose(
        solution.error, np.hypot(solution.residual, ROUNDING["bfloat16"] * solution.norm), rtol=1e-9
    )
    (got,) = posthoc_ema.rebuild(wanted, template(one_device))
    assert got["bias"].dtype == np.float32
    fine = make_run(tmp_path / "fine", 40)
    # The same combination of values that were not rounded: what is left is the rounding alone.
    other = posthoc_ema.Plan(
        fine.folder,
        400,
        (0.03,),
        tuple(Snapshot(s.step, s.profiles, "float32", s.sha256) for s in wanted.snapshots),
        wanted.solution,
    )
    (exact,) = posthoc_ema.rebuild(other, template(one_device))
    size = np.sqrt(np.mean(np.square(exact["layer"]["kernel"])))
    off = distance(got["layer"], exact["layer"]) / size
    expected = ROUNDING["bfloat16"] * wanted.solution.norm[0]
    assert 0.5 * expected < off < 1.5 * expected


def test_a_tracked_average_at_its_step_is_read_and_not_kept_twice(run, one_device, monkeypatch):
    steps = reads(monkeypatch)
    got = posthoc_ema.average(run.folder, 0.05, 200, template(one_device))
    assert steps == [200]
    np.testing.assert_array_equal(got["bias"], np.float32(expected_bias(0.05, 200)))
    assert not (run.folder / "ema").exists()


def test_what_was_rebuilt_is_kept(run, one_device, monkeypatch):
    steps = reads(monkeypatch)
    first = posthoc_ema.average(run.folder, 0.07, 80, template(one_device))
    assert steps == [40, 80]
    # Read into another sharding, too.
    second = posthoc_ema.average(run.folder, 0.07, 80, template(make_mesh(8)))
    assert steps == [40, 80]
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert files.names(run.folder / "ema") == ["0.07"]
    meta = checkpointer.read_meta(run.folder / "ema" / "0.07", 80)
    assert (meta["step"], meta["ema"]) == (80, [profile_name(0.07)])
    assert 0 < meta["residual"] < meta["error"] < 0.1


@pytest.mark.parametrize("change", ["another", "fewer", "corrupt", "values"])
def test_what_was_kept_is_rebuilt_when_it_no_longer_holds(run, one_device, monkeypatch, change):
    before = posthoc_ema.average(run.folder, 0.07, 120, template(one_device))
    if change == "another":
        synthetic.add_snapshots(run, [60])
    elif change == "fewer":
        shutil.rmtree(run.snapshots / "40")
    elif change == "values":  # of another course of training
        shutil.rmtree(run.snapshots / "80")
        synthetic.add_snapshots(run, [80], average=lambda s, t: synthetic.average(s, t + 1))
    else:
        for path in pathlib.Path(run.folder, "ema", "0.07", "120", "ema").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    steps = reads(monkeypatch)
    after = posthoc_ema.average(run.folder, 0.07, 120, template(one_device))
    assert len(steps) == {"another": 4, "fewer": 2}.get(change, 3)
    assert (distance(before, after) == 0) == (change == "corrupt")
    posthoc_ema.average(run.folder, 0.07, 120, template(one_device))
    assert len(steps) == {"another": 4, "fewer": 2}.get(change, 3)


def test_later_snapshots_change_nothing(run, one_device, monkeypatch):
    posthoc_ema.average(run.folder, 0.07, 80, template(one_device))
    synthetic.add_snapshots(run, [100])
    steps = reads(monkeypatch)
    posthoc_ema.average(run.folder, 0.07, 80, template(one_device))
    assert steps == []


def test_a_full_disk_keeps_nothing_and_is_no_obstacle(run, one_device, capsys, caplog):
    caplog.set_level(logging.CRITICAL, "absl")
    with small_files(10_000):
        got = posthoc_ema.average(run.folder, 0.07, 120, template(one_device))
    assert distance(got, synthetic.average(0.07, 120)) < 0.03
    assert "It is not kept, as " in capsys.readouterr().out
    wanted = plan(run.folder, (0.07,), 120)
    assert not posthoc_ema.is_kept(wanted, 0.07)
    with small_files(10_000), pytest.raises(files.WriteError, match="File too large"):
        posthoc_ema.keep(wanted, [got])
    assert posthoc_ema.fill(run.folder, [0.05, 0.07], 120) == 1
    assert posthoc_ema.fill(run.folder, [0.05, 0.07], 120) == 0
    assert posthoc_ema.is_kept(wanted, 0.07)


def test_an_export_is_a_run_of_its_own(run, tmp_path, alone, caplog):
    caplog.set_level(logging.CRITICAL, "absl")
    out, wanted = epath.Path(tmp_path) / "out", plan(run.folder, (0.07,))
    with small_files(10_000), pytest.raises(files.WriteError, match="File too large"):
        export(wanted, out / "full")
    assert not Run(out / "full").exists()
    out = out / "other"
    export(wanted, out)
    assert files.names(out) == ["config.json", "snapshots"]
    assert resolve(f"{out}:ema=0.07").step == 400
    assert Run(out).config().training.power_ema == (0.07,)
    with pytest.raises(UserError, match="not empty"):
        export(wanted, out)


def test_what_is_rebuilt_is_printed_once_with_its_estimated_error(run, one_device, capsys):
    solution = plan(run.folder, (0.04,), 320).solution
    for _ in range(2):
        posthoc_ema.average(run.folder, 0.04, 320, template(one_device))
    error = np.sqrt(solution.residual[0] ** 2 + (ROUNDING["float32"] * solution.norm[0]) ** 2)
    assert capsys.readouterr().out == (
        f"Average 0.04 of {run.folder} at step 320: from 8 snapshots, estimated error {error:.2g}\n"
    )
    posthoc_ema.average(run.folder, 0.05, 320, template(one_device))
    assert capsys.readouterr().out == ""


def test_a_corrupt_snapshot_is_named(run, one_device):
    for path in pathlib.Path(run.snapshots, "160", "ema").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match="snapshots/160 is corrupt: .*; .* move it elsewhere"):
        posthoc_ema.average(run.folder, 0.07, 400, template(one_device))
    assert not (run.folder / "ema").exists()
    # It is not in the way of what came before.
    posthoc_ema.average(run.folder, 0.07, 120, template(one_device))


def test_a_changed_value_is_noticed(run, one_device):
    meta = run.snapshots / "160" / "meta" / "metadata"
    values = json.loads(meta.read_text())
    values["fingerprints"]["ema"]["power_0.1/bias"] += 1
    del values["checksum"]
    meta.write_text(json.dumps(values))
    with pytest.raises(UserError, match="other values than were saved, first in power_0.1/bias"):
        posthoc_ema.average(run.folder, 0.07, 400, template(one_device))


@pytest.mark.parametrize("length", [0.0, -0.1, 1e-160, 0.289, float("nan"), float("inf")])
def test_lengths_that_no_profile_has_are_refused(run, length):
    with pytest.raises(UserError, match="from 1e-09 to 0.2887"):
        plan(run.folder, (length,))
    with pytest.raises(UserError, match="1e-09 at step 400 .* cannot be trusted"):
        check(plan(run.folder, (1e-9,)))


def test_steps_without_a_snapshot_are_refused(run):
    with pytest.raises(UserError, match="no snapshot of step 50 .* 40, 80, 120, 160, 200"):
        plan(run.folder, (0.07,), 50)


def test_a_run_without_snapshots_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no snapshots"):
        plan(make_run(tmp_path / "run", 40, until=0).folder, (0.07,))


def test_too_few_snapshots_are_refused_with_the_estimate_and_a_way_out(run):
    wanted = plan(run.folder, (0.07, 0.015))
    with pytest.raises(UserError) as caught:
        check(wanted)
    sentence = str(caught.value)
    assert "length 0.015 at step 400" in sentence
    assert f"from 10 snapshots its estimated error is {wanted.solution.error[1]:.2g}" in sentence
    assert "0.03, 0.04, 0.05" in sentence
    assert "0.02," not in sentence
    check(plan(run.folder, (0.03, 0.07, 0.2)))
