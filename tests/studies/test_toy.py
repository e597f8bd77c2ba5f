import numpy as np
import pytest
from jaxdiff.evaluation.toy_runs import Runs

from configs import toy as toy_config
from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.run import Run
from jaxdiff.data import toy
from jaxdiff.errors import UserError
from jaxdiff.evaluation import toy_figures, toy_score
from tests.models.test_unet import random_params
from tests.test_command_line import run

pytestmark = pytest.mark.usefixtures("alone")


def make_run(folder, seed, channels=8, **fields):
    """A run with one snapshot of arbitrary parameters."""
    config = toy_config.get_config()
    config.model.channels = channels
    config.sampling.steps = "4"
    config.update_from_flattened_dict(fields)
    place = Run(folder)
    folder.mkdir()
    place.config_file.write_text(config_lib.to_json(config))
    store = Store(place.snapshots)
    params = random_params(factory.network(config), seed=seed)
    store.save(1, {"ema": {"power_0.01": params}}, {"ema": ["power_0.01"]})
    store.close()
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    names = ("model", "guide", "unconditional")
    return Runs(*(make_run(folder / name, seed) for seed, name in enumerate(names)), seed=0)


def test_the_truth_scores_as_the_truth():
    result = toy_score.score(toy_score.truth(3, 20_000))
    # Standard errors: .0002 of the share, .01 of the means.
    assert abs(result.outliers - toy_score.OUTLIERS) < 0.001
    assert result.tv < 0.04
    assert abs(result.mean - result.clipped_mean) < 0.01
    assert result.clipped_mean <= result.median + 0.2


def test_outliers_and_lost_branches_are_seen():
    points = toy_score.truth(3, 20_000)
    far = points.copy()
    far[:2000] += 5
    result = toy_score.score(far)
    assert abs(result.outliers - 0.1) < 0.002
    assert result.mean < -3 < result.clipped_mean
    expected = toy_score.shares(points)
    nearest = ((points[:, None] - toy.branch_means("A")) ** 2).sum(-1).argmin(1)
    one_branch = toy_score.score(points[nearest == 0])
    assert abs(one_branch.tv - (1 - expected[0])) < 0.01


def test_what_lies_in_the_middle_of_a_branch_is_counted_there():
    np.testing.assert_allclose(toy_score.shares(toy.branch_means("A")), np.full(127, 1 / 127))


def test_heun_with_the_exact_score_draws_from_the_truth(tmp_path):
    name = make_run(tmp_path / "run", 0, **{"sampling.steps": "32"})
    points = Runs(name, name, name, 0).exact(4096)
    result = toy_score.score(points)
    assert result.outliers < 0.005
    assert result.tv < 0.08  # of 4096 points of the truth itself: about .05


def test_methods_are_settings_of_the_job(runs):
    alone = runs.points(64)
    np.testing.assert_array_equal(runs.points(64, guide=1.0), alone)
    guided = runs.points(64, guide=3.0, cfg=1.0)
    assert np.abs(guided - alone).max() > 1e-3
    # A weight of 0 is the reference itself.
    np.testing.assert_allclose(runs.points(64, guide=0.0), runs.guide_points(64), 1e-4, 1e-4)
    np.testing.assert_allclose(runs.truncated(64, 1.0), alone, 1e-4, 1e-4)
    evaluations = runs.method(guide=2.0, cfg=2.0).evaluations
    assert evaluations == {"model": 7, f"{runs.guide}@1": 7, f"{runs.unconditional}@1": 7}


def test_trajectories_end_where_the_job_s_points_do(runs):
    path = runs.trajectories(16, guide=2.0)
    assert path.shape == (5, 16, 2)
    np.testing.assert_allclose(path[-1], runs.points(16, guide=2.0), atol=1e-4)


def test_the_figures_are_drawn(runs, tmp_path):
    toy_figures.overview(runs, tmp_path / "toy.png", count=16, paths=2)
    score = toy_score.score(toy_score.truth(0, 16))
    toy_figures.frontier({"a": [(1.5, score), (2, score)]}, tmp_path / "frontier.png")
    assert {p.name for p in tmp_path.iterdir()} == {"toy.png", "frontier.png"}


def test_runs_of_anything_else_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match="is not the folder of a run"):
        Runs(str(tmp_path), runs.guide, runs.unconditional, 0)


def test_the_toy_is_sampled_from_the_command_line(runs, tmp_path):
    out = tmp_path / "out"
    flags = [f"--model={runs.model}", f"--guide={runs.guide}", "--weight=3", f"--out={out}"]
    code, printed, err = run("sample.py", *flags, "--num_samples=10", "--sampler=dpmpp")
    assert code == 0, err
    assert f"4 of model, 4 of {runs.guide}@1" in printed
    with np.load(out / "samples_10x2.npz") as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((10, 2), np.float32)
