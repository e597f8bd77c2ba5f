"""Sweeps of a history that takes no training."""

import csv
import dataclasses
import itertools
import shlex
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.config import Heun
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation import heat_maps, run_sweep, sweep
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from jaxdiff.evaluation.ranking import pareto_front
from jaxdiff.evaluation.search import HELD, NonFinite, Point, Search, grid, of_settings
from jaxdiff.sampling import command, pipeline
from jaxdiff.sampling.samples import Samples
from jaxdiff.sampling.trained_model import TrainedModel, load
from tests import history
from tests.programs import refused, run
from tests.runs import classifier, make_run, random_params

METRICS = ("fd", "recall")

pytestmark = pytest.mark.usefixtures("alone")


@dataclasses.dataclass(frozen=True)
class Runs:
    model: str
    guide: str
    classifier: str


@pytest.fixture(scope="module")
def runs(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return Runs(
        history.make(folder / "model"),
        history.make(folder / "guide", seed=1),
        make_run(folder / "classifier", classifier("adaptive")),
    )


def search(runs, **fields):
    common = {"model": runs.model, "guide": runs.guide, "num_samples": 20, "batch_size": 20}
    return Search(**{**common, **fields})


def two_weights(searched):
    return grid(searched, [1, 2], [5, 10], [0.1], [0.05])


@pytest.fixture(scope="module")
def swept(runs, tmp_path_factory):
    """(Search, points, folder, {Point: {metric: value}}) of a finished sweep."""
    out = epath.Path(tmp_path_factory.mktemp("sweep")) / "out"
    searched = search(runs, model_step=10, guide_step=10)
    points = two_weights(searched)
    return searched, points, out, run_sweep.run(searched, points, runs.classifier, out, METRICS)


def test_a_grid_has_every_combination_and_no_guide_at_weight_1(runs):
    weights, steps, emas, intervals = [1, 1.5, 3], [5, 10], [0.05, 0.1], [(0, 1), (1, 2)]
    points = grid(search(runs), weights, steps, emas, emas, intervals)
    plain = [p for p in points if p.weight == 1]
    assert plain == [Point(weight=1, model_ema=ema) for ema in emas]
    guided = {dataclasses.astuple(p) for p in points if p.weight != 1}
    assert guided == set(itertools.product([1.5, 3], steps, emas, emas, intervals))
    assert len(points) == len(set(points)) == 2 + 32
    for lists in ([], [[2], [5]], [[2], [], [], [0.1]], [[2], [], [], [], [(2, 1)]]):
        with pytest.raises(UserError):
            grid(search(runs, guide=None), *(lists or [[]]))


def test_a_point_is_measured_on_the_job_s_own_samples(runs, swept, tmp_path):
    _, points, _, measured = swept
    point = Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.05)
    assert point in points
    command_line = search(runs).command(point, tmp_path / "out").split()[2:]
    command.main.__globals__["cli"].run(command._sample, command.parser(), command_line)
    with np.load(tmp_path / "out" / "samples_20x8x8x1.npz") as arrays:
        images = arrays["arr_0"]
    extractor = open_extractor(runs.classifier)
    real = open_split(history.config().data, "train", ()).all()["x"]
    real, fake = (np.float64(extractor(x)["features"]) for x in (real, images))
    expected = distance(Moments.of(real), Moments.of(fake))
    assert measured[point]["fd"] == pytest.approx(expected, rel=1e-3)
    between = np.linalg.norm(fake[:, None] - fake, axis=-1)
    balls = np.linalg.norm(real[:, None] - fake, axis=-1) <= np.sort(between)[:, 3]
    assert measured[point]["recall"] == pytest.approx(balls.any(1).mean(), abs=2e-3)
    assert len({f"{values['fd']:.4g}" for values in measured.values()}) == len(points) == 3


def test_a_row_is_there_as_soon_as_its_point_is_and_is_not_measured_again(
    runs, swept, tmp_path, monkeypatch
):
    searched, points, done, measured = swept
    sampled, out = [], epath.Path(tmp_path)

    def stop_at_the_third(self, point, seed=None):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(point)
        return Samples(images=np.full((20, 8, 8, 1), len(sampled), np.uint8))

    monkeypatch.setattr(Search, "samples", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_sweep.run(searched, points, runs.classifier, out, METRICS)
    before = (out / "sweep.csv").read_text()
    assert len(list(csv.DictReader(before.splitlines()))) == 2
    sampled.clear()
    got = run_sweep.run(searched, points, runs.classifier, out, METRICS)
    assert sampled == points[2:]
    assert (out / "sweep.csv").read_text().startswith(before)
    assert list(got) == points
    with Image.open(done / "sweep.png") as picture:
        assert min(picture.size) > 300
    assert run_sweep.Table(done, METRICS).read() == measured
    rows = list(csv.DictReader((done / "pareto.csv").read_text().splitlines()))
    front = pareto_front(measured, METRICS)
    assert [float(row["weight"]) for row in rows] == [point.weight for point in front]
    assert [float(row["fd"]) for row in rows] == [measured[point]["fd"] for point in front]


def test_another_grid_adds_points_and_another_search_is_refused(runs, swept, monkeypatch):
    searched, points, out, measured = swept
    before = (out / "sweep.csv").read_text()
    more = grid(searched, [1, 2], [5, 10], [0.05, 0.1], [0.05], [(0.1, 9)])
    sampled = []

    def samples(self, point, seed=None):
        sampled.append(point)
        return Samples(images=np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1))

    monkeypatch.setattr(Search, "samples", samples)
    got = run_sweep.run(searched, more, runs.classifier, out, METRICS)
    assert set(sampled) == set(more) - set(points)
    assert {p: got[p] for p in points} == measured
    assert run_sweep.Table(out, METRICS).read() == got
    after = (out / "sweep.csv").read_text()
    assert after.startswith(before)
    other = dataclasses.replace(searched, seed=1, num_samples=30)
    with pytest.raises(UserError, match="num_samples, seed"):
        run_sweep.run(other, points, runs.classifier, out, METRICS)
    with pytest.raises(UserError, match="another metrics"):
        run_sweep.run(searched, points, runs.classifier, out, ("fd",))
    assert (out / "sweep.csv").read_text() == after


def test_points_share_what_is_compiled_and_few_networks_are_held(runs, monkeypatch):
    searched, read, params = search(runs), [], TrainedModel.params.func

    def note(self):
        read.append(str(self))
        return params(self)

    monkeypatch.setattr(TrainedModel, "params", property(note))
    before = pipeline._begin._cache_size(), pipeline._advance._cache_size()
    points = grid(searched, [1, 2, 3], [5, 10], [0.05, 0.1], [0.05, 0.1])
    for point in [*points, points[0]]:
        searched.samples(point)
    # One program for points that are guided, and one for those that are not.
    assert pipeline._begin._cache_size() <= before[0] + 2
    assert pipeline._advance._cache_size() <= before[1] + 2
    assert len(set(read)) == 6
    assert len(searched._models) == HELD


def test_averages_that_cannot_be_rebuilt_are_refused_before_anything_is_sampled(
    runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(Search, "samples", None)
    searched, out = search(runs), epath.Path(tmp_path) / "out"
    for lists, words in [
        (([2], [7]), "no step 7"),
        (([2], [], [0.4]), "0.4"),
        (([2], [5], [], [0.01]), "0.01"),
    ]:
        with pytest.raises(UserError, match=words):
            run_sweep.run(searched, grid(searched, *lists), runs.classifier, out)
    larger = classifier("adaptive", attention_resolutions=(16,), data__image_size=16)
    other = make_run(tmp_path / "run", larger, steps=(5,))
    with pytest.raises(UserError, match=r"\(16, 16, 1\)"):
        run_sweep.run(searched, two_weights(searched), other, out)
    assert not out.exists()


def test_the_command_line_of_a_point_asks_for_what_was_sampled(runs):
    searched = search(runs, model=f"{runs.model}@10:dropout=.05", sampler=Heun(steps=5))
    point = Point(weight=1.5, guide_step=5, model_ema=0.1, guide_ema=0.05, interval=(0.2, 3))
    for one, out in ((searched, "OUT"), (search(runs, guide=None), "my samples")):
        words = shlex.split(one.command(point, out))
        assert words[:2] == ["python", "sample.py"]
        args = command.parser().parse_args(words[2:])
        assert args.out == out
        model, expected = load(args.model), one.job(point).settings
        found = model.job(
            args.num_samples,
            seed=args.seed,
            sampler=command.sampler_of(args, model.config),
            guidance=command.guidance_of(args),
        ).settings
        assert found == expected
        assert of_settings(one.settings()) == dataclasses.replace(one, batch_size=250)


def test_samples_that_are_not_finite_are_the_worst_and_a_line_says_so(
    runs, tmp_path, monkeypatch, capsys
):
    def samples(self, point, seed=None):
        if point.weight != 1:
            raise NonFinite("3 of 20 samples are not finite.")
        return Samples(images=np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1))

    monkeypatch.setattr(Search, "samples", samples)
    searched, out = search(runs), epath.Path(tmp_path)
    measured = run_sweep.run(searched, two_weights(searched), runs.classifier, out, METRICS)
    for point, values in measured.items():
        if point.weight != 1:
            assert values == {"fd": np.inf, "recall": -np.inf}
    assert "3 of 20" in capsys.readouterr().out
    assert run_sweep.Table(out, METRICS).read() == measured
    assert (out / "pareto.csv").read_text().count("\n") == 2


def test_a_heat_map_holds_the_best_over_all_else():
    measured = {
        Point(weight=1): 9.0,
        Point(weight=2, guide_step=5, guide_ema=0.1): 4.0,
        Point(weight=2, guide_step=5, guide_ema=0.2): 3.0,
        Point(weight=2, guide_step=10, guide_ema=0.1): 5.0,
        Point(weight=3, guide_step=10, guide_ema=0.1): 6.0,
    }
    got = heat_maps.best_of(measured, "weight", "guide_step", [1, 2, 3], [5, 10])
    assert got == [[9.0, 3.0, None], [9.0, 5.0, 6.0]]
    got = heat_maps.best_of(measured, "weight", "guide_step", [1, 2, 3], [5, 10], lower=False)
    assert got == [[9.0, 4.0, None], [9.0, 5.0, 6.0]]
    worse = {**measured, Point(weight=1): 1.0}
    assert heat_maps.best_of(worse, "guide_ema", "guide_step", [0.1, 0.2], [5]) == [[4.0, 3.0]]
    gated = {Point(weight=2, interval=(1, 2)): 2.0, Point(weight=2): 1.0, Point(weight=1): 3.0}
    rows = heat_maps.values_of(gated, "interval")
    assert rows == [None, (1, 2)], "guided at all levels is a row too"
    assert heat_maps.best_of(gated, "weight", "interval", [1, 2], rows) == [[3.0, 1.0], [3.0, 2.0]]


def test_a_search_keeps_to_the_steps_and_networks_that_there_are_when_it_begins(
    runs, tmp_path, monkeypatch
):
    """Whatever is trained later, and whatever else is searched."""
    images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1)
    monkeypatch.setattr(Search, "samples", lambda *args, **kwargs: Samples(images=images))
    guide, out = tmp_path / "guide", epath.Path(tmp_path) / "out"
    shutil.copytree(runs.guide, guide)
    searched = search(runs, guide=str(guide))
    points = grid(searched, [2], [], [0.1], [0.05])
    begun = run_sweep.pinned(searched, points, out)
    assert (begun.model_step, begun.guide_step) == (10, 10)
    run_sweep.run(begun, points, runs.classifier, out)
    network = load(guide).network
    store = Checkpointer(epath.Path(guide) / "snapshots")
    averages = {f"power_{n}": random_params(network, seed=int(100 * n)) for n in history.LENGTHS}
    store.save(15, {"ema": averages}, {"ema": list(averages)})
    store.close()
    assert run_sweep.pinned(searched, points, out / "other").guide_step == 15
    more = grid(searched, [2], [5], [0.1], [0.05])
    again = run_sweep.pinned(searched, more, out)
    assert again == begun
    assert str(begun.networks(points[0])[1]) == f"{guide}@10:ema=0.05"
    assert set(run_sweep.run(again, more, runs.classifier, out)) == {*points, *more}
    shutil.rmtree(guide)
    history.make(guide, seed=2)
    with pytest.raises(UserError, match="another networks"):
        run_sweep.run(again, more, runs.classifier, out)


def test_mistakes_end_in_a_sentence(runs, tmp_path, capsys):
    own = [f"--model={runs.model}", f"--features={runs.classifier}", f"--out={tmp_path / 'out'}"]
    own += ["--num_samples=20"]
    lines = {
        "--weights=nan": "--weights",
        "--weights=two": "two",
        "--weights=": "--weights",
        "--guide_steps=1.5": "1.5",
        "--interval=2,1": "interval",
        "--guide=nowhere": "nowhere",
        f"--features={runs.model}": "is a diffusion model",
        f"--model={runs.classifier}": "is a classifier",
        "--metrics=fdd": "fdd",
        "--metrics=fd,fid": "fid",
        "--metrics=fd,kid": "its subsets of 1000",
        "--sampler=huen": "huen",
        "--steps=0": "0",
    }
    refused(sweep.main, capsys, [([*own, "--weights=2", k], words) for k, words in lines.items()])
    assert not (tmp_path / "out").exists()


def test_the_command_line(runs, tmp_path):
    code, printed, err = run(
        *("-m", "jaxdiff.evaluation.sweep", f"--model={runs.model}", "--weights=2"),
        *("--interval=.1,9", "--num_samples=16", f"--features={runs.classifier}"),
        *(
            "--metrics=fd,precision,vendi",
            "--import=studies.digits.data",
            f"--out={tmp_path / 'out'}",
        ),
    )
    assert code == 0, err
    metrics = ("fd", "precision", "vendi")
    values = run_sweep.Table(epath.Path(tmp_path) / "out", metrics).read()
    assert set(values) == {Point(weight=2, interval=(0.1, 9))}
    lines = printed.splitlines()[-8:]
    assert lines[0] == "Pareto front of fd and precision and vendi, 1 of 1 points:"
    best = f"python sample.py --model {runs.model}@10 --cfg 2 --interval 0.1,9 "
    for metric, title, command_line in zip(metrics, lines[2::2], lines[3::2], strict=True):
        assert title.startswith(f"Best of 1 points, {metric} ")
        assert command_line.startswith(best)
