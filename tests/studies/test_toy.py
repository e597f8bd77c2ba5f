"""The toy's study, on runs of a few steps: kinds from outside the package, by the public API."""

import dataclasses

import numpy as np
import pytest

import jaxdiff
from configs import toy, toy_guide, toy_unconditional
from jaxdiff import files
from jaxdiff.config import Heun, replaced
from jaxdiff.errors import UserError
from studies.toy import __main__ as study
from studies.toy import data, figures, score
from studies.toy.runs import Runs
from tests import tiny
from tests.programs import run
from tests.runs import make_run

pytestmark = pytest.mark.usefixtures("alone")

TINY = {
    "model.channels": 8,
    "training.num_steps": 4,
    "training.batch_size": 64,
    "training.log_every": 4,
    "training.checkpoint_every": 4,
    "training.snapshot_every": 2,
    "training.preview_every": 100,
    "sampling.steps": 4,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model that was trained for four steps, and two networks of arbitrary parameters."""
    folder = tmp_path_factory.mktemp("toys")
    jaxdiff.train(replaced(toy.get_config(), TINY), files.parse_path(folder / "model", "workdir"))
    untrained = {"model.channels": 8, "training.power_ema": (), "sampling.steps": 4}
    guide = make_run(folder / "guide", replaced(toy_guide.get_config(), untrained))
    config = replaced(toy_unconditional.get_config(), untrained)
    return Runs(str(folder / "model"), guide, make_run(folder / "both", config, seed=1), seed=0)


def test_the_truth_scores_as_the_truth():
    result = score.score(score.truth(3, 20_000))
    # Standard errors: .0002 of the share, .01 of the means.
    assert abs(result.outliers - score.OUTLIERS) < 0.001
    assert result.tv < 0.04
    assert abs(result.mean - result.clipped_mean) < 0.01
    assert result.clipped_mean <= result.median + 0.2


def test_outliers_and_lost_branches_are_seen():
    points = score.truth(3, 20_000)
    far = points.copy()
    far[:2000] += 5
    result = score.score(far)
    assert abs(result.outliers - 0.1) < 0.002
    assert result.mean < -3 < result.clipped_mean
    expected = score.shares(points)
    nearest = ((points[:, None] - data.branch_means("A")) ** 2).sum(-1).argmin(1)
    one_branch = score.score(points[nearest == 0])
    assert abs(one_branch.tv - (1 - expected[0])) < 0.01
    np.testing.assert_allclose(score.shares(data.branch_means("A")), np.full(127, 1 / 127))


def test_heun_with_the_exact_score_draws_from_the_truth(runs):
    precise = Runs(runs.model, runs.guide, runs.unconditional, 0)
    model = runs.load(runs.model)
    config = dataclasses.replace(model.config, sampling=Heun(steps=32, sigma_max=5.0, clip=False))
    precise._loaded[runs.model] = dataclasses.replace(model, config=config)
    result = score.score(precise.exact(4096))
    assert result.outliers < 0.005
    assert result.tv < 0.08  # of 4096 points of the truth itself: about .05


def test_methods_are_settings_of_a_request(runs):
    alone = runs.points(64)
    np.testing.assert_array_equal(runs.points(64, guide=1.0), alone)
    guided = runs.points(64, guide=3.0, cfg=1.0)
    assert np.abs(guided - alone).max() > 1e-3
    # A weight of 0 is the reference itself.
    np.testing.assert_allclose(runs.points(64, guide=0.0), runs.guide_points(64), 1e-4, 1e-4)
    np.testing.assert_allclose(runs.truncated(64, 1.0), alone, 1e-4, 1e-4)
    assert np.abs(runs.points(64, early=(2, 3.0)) - alone).max() > 1e-4
    path = runs.trajectories(16, guide=2.0)
    assert path.shape == (5, 16, 2)
    np.testing.assert_allclose(path[-1], runs.points(16, guide=2.0), atol=1e-4)


def test_the_table_and_the_figures_are_made(runs, tmp_path):
    table = study.table(study.measure({"truth": study.rows()["truth"]}, [runs, runs], 100))
    assert [len(cell) for cell in table[1][0][1:]] == [2] * 5
    figures.overview(runs, files.parse_path(tmp_path / "toy.png", "out"), count=16, paths=2)
    points = {"a": [(1.5, score.score(score.truth(0, 16)))]}
    figures.frontier(points, files.parse_path(tmp_path / "frontier.png", "out"))
    assert {p.name for p in tmp_path.iterdir()} == {"toy.png", "frontier.png"}


def test_runs_of_anything_else_are_refused(runs, tmp_path):
    name = make_run(tmp_path / "run", tiny.config())
    with pytest.raises(UserError, match="is no run of the toy"):
        runs.load(name)


def test_the_toy_is_sampled_from_the_command_line(runs, tmp_path):
    out = tmp_path / "out"
    flags = [f"--model={runs.model}", f"--guide={runs.guide}", "--weight=3", f"--out={out}"]
    flags += ["--num_samples=10", "--sampler=dpmpp", "--steps=4"]
    refused = run("sample.py", *flags)
    assert refused.returncode == 1
    assert "--import studies.toy.kinds" in refused.stderr
    done = run("sample.py", *flags, "--import=studies.toy.kinds")
    assert done.returncode == 0, done.stderr
    assert f"4 of {runs.guide}@10" in done.stdout
    with np.load(out / "samples_10x2.npz") as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((10, 2), np.float32)
