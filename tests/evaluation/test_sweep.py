"""Sweeps of a history that takes no training, and what is sampled afresh of them."""

import csv
import dataclasses
import itertools
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdiff.errors import UserError
from jaxdiff.evaluation import confirm, heat_maps, sweep
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.frechet import Moments, distance
from jaxdiff.evaluation.search import HELD, Point, Search, grid
from jaxdiff.files import read_json, write_json
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.trained_model import Model
from tests import history, tiny
from tests.conftest import ROOT
from tests.refusals import check
from tests.sampling.test_job import make_run, sample

pytestmark = pytest.mark.usefixtures("alone")


@dataclasses.dataclass(frozen=True)
class Runs:
    model: str
    guide: str
    classifier: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kind = {"model__kind": "classifier", "model__pool": "adaptive"}
    classifier = tiny.config(**kind, diffusion__label_dropout=0.0)
    return Runs(
        history.make(folder / "model"),
        history.make(folder / "guide", seed=1),
        make_run(folder / "classifier", classifier),
    )


def search(runs, **fields):
    common = {"model": runs.model, "guide": runs.guide, "num_samples": 20, "batch_size": 20}
    return Search(**{**common, **fields})


@pytest.fixture
def written(runs, tmp_path):
    """Folders of sweeps whose tables were written by hand."""

    def write(name, measured, **fields):
        searched = search(runs, **fields)
        folder = tmp_path / name
        settings = {**dataclasses.asdict(searched), "metric": "fd", "features": "f"}
        settings["sampling"] = {"sampler": "dpmpp"}
        folder.mkdir()
        write_json(folder / sweep.SETTINGS, settings)
        for point, value in measured.items():
            sweep.Table(folder, "fd").add(point, value, 1.0)
        return folder

    both = {
        Point(weight=1, model_ema=0.1): 5.0,
        Point(weight=1, model_ema=0.05): 4.5,
        Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.1): 3.0,
        Point(weight=3, guide_step=5, model_ema=0.05, guide_ema=0.05): 3.5,
        Point(weight=2, guide_step=10, model_ema=0.05, guide_ema=0.1): 2.0,
    }
    cfg = {Point(weight=1, model_ema=0.1): 4.7, Point(weight=2, model_ema=0.1): 4.0}
    return [write("cfg", cfg, guide=None), write("both", both)]


def two_weights(searched):
    return grid(searched, [1, 2], [5, 10], [0.1], [0.05], [])


@pytest.fixture(scope="module")
def swept(runs, tmp_path_factory):
    """(Search, points, folder, {Point: value}) of a finished sweep."""
    searched, out = search(runs), tmp_path_factory.mktemp("sweep") / "out"
    points = two_weights(searched)
    return searched, points, out, sweep.run(searched, points, runs.classifier, out)


def test_a_grid_has_every_combination_and_no_guide_at_weight_1(runs):
    weights, steps, emas, intervals = [1, 1.5, 3], [5, 10], [0.05, 0.1], ["0,1", "1,2"]
    points = grid(search(runs), weights, steps, emas, emas, intervals)
    plain = [p for p in points if p.weight == 1]
    assert plain == [Point(weight=1, model_ema=ema) for ema in emas]
    guided = {dataclasses.astuple(p) for p in points if p.weight != 1}
    assert guided == set(itertools.product([1.5, 3], steps, emas, emas, intervals))
    assert len(points) == len(set(points)) == 2 + 32


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (([], [], [], [], []), "--weights is empty"),
        (([2], [5], [], [], []), "no meaning without --guide"),
        (([2], [], [], [0.1], []), "no meaning without --guide"),
    ],
)
def test_grids_that_make_no_sense_are_refused(runs, lists, words):
    with pytest.raises(UserError, match=words):
        grid(search(runs, guide=None), *lists)


def test_a_point_is_the_distance_of_the_job_s_own_samples(runs, swept, tmp_path):
    _, points, _, measured = swept
    point = Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.05)
    assert point in points
    arrays, _ = sample(
        tmp_path,
        model=f"{runs.model}:ema=0.1",
        guide=(f"{runs.guide}@5:ema=0.05",),
        weight=(2.0,),
        num_samples=20,
    )
    features = open_features(runs.classifier)
    real = real_moments(features, history.config().data)
    expected = distance(real, Moments.of(features(arrays["arr_0"])))
    assert measured[point] == pytest.approx(expected, rel=1e-3)
    assert len({f"{v:.4g}" for v in measured.values()}) == len(points) == 3


def test_a_row_is_there_as_soon_as_its_point_is_and_is_not_measured_again(
    runs, swept, tmp_path, monkeypatch
):
    searched, points, done, measured = swept
    sampled = []

    def stop_at_the_third(self, point, seed=None):
        if len(sampled) == 2:
            raise KeyboardInterrupt
        sampled.append(point)
        return np.full((20, 8, 8, 1), len(sampled), np.uint8), None

    monkeypatch.setattr(Search, "images", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(searched, points, runs.classifier, tmp_path)
    table = tmp_path / "sweep.csv"
    before = table.read_text()
    assert len(list(csv.DictReader(before.splitlines()))) == 2
    table.write_text(before + "2.0,10,0.1")  # a row that was being written
    sampled.clear()
    got = sweep.run(searched, points, runs.classifier, tmp_path)
    assert sampled == points[2:]
    assert table.read_text().startswith(before)
    assert list(got) == points
    monkeypatch.undo()
    with Image.open(done / "sweep.png") as picture:
        assert min(picture.size) > 300
    assert sweep.Table(done, "fd").read() == measured


def test_another_grid_adds_points_and_another_search_is_refused(runs, swept, monkeypatch):
    searched, points, out, measured = swept
    before = (out / "sweep.csv").read_text()
    more = grid(searched, [1, 2], [5, 10], [0.05, 0.1], [0.05], [])
    sampled = []

    def images(self, point, seed=None):
        sampled.append(point)
        return np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1), None

    monkeypatch.setattr(Search, "images", images)
    got = sweep.run(searched, more, runs.classifier, out)
    assert set(sampled) == set(more) - set(points)
    assert {p: got[p] for p in points} == measured
    assert (out / "sweep.csv").read_text().startswith(before)
    after = (out / "sweep.csv").read_text()
    other = dataclasses.replace(searched, seed=1, num_samples=30)
    with pytest.raises(UserError, match="another num_samples, seed: choose another --out"):
        sweep.run(other, points, runs.classifier, out)
    assert (out / "sweep.csv").read_text() == after


def test_points_share_what_is_compiled_and_few_networks_are_held(runs, monkeypatch):
    searched, read = search(runs), []
    params = Model.params

    def note(self, mesh):
        read.append((str(self), self.reference.step, self.reference.ema))
        return params(self, mesh)

    monkeypatch.setattr(Model, "params", note)
    points = grid(searched, [1, 2, 3], [5, 10], [0.05, 0.1], [0.05, 0.1], [])
    for point in [*points, points[0]]:
        searched.images(point)
    plain, guided = (
        searched._compiled[references] for references in sorted(searched._compiled, key=len)
    )
    for generate in (plain, guided):
        assert generate._begin._cache_size() == 1
        assert generate._advance._cache_size() == 1
    networks = {(name, step) for name, step, _ in read}
    assert len(networks) == 6
    assert len(searched._held) == HELD < len(networks)
    assert len(read) > len(networks), "what was let go is read again"


def test_averages_that_cannot_be_rebuilt_are_refused_before_anything_is_sampled(
    runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(Search, "images", None)
    searched = search(runs)
    for lists, words in [
        (([2], [7], [], [], []), "has no step 7"),
        (([2], [], [0.4], [], []), "0.4: it must lie between"),
        (([2], [5], [], [0.01], []), "cannot be trusted"),
    ]:
        with pytest.raises(UserError, match=words):
            sweep.run(searched, grid(searched, *lists), runs.classifier, tmp_path / "out")


def test_the_command_line_of_a_point_asks_for_what_was_sampled(runs):
    searched = search(runs, model=f"{runs.model}@10:dropout=.05", sampler="heun", steps="5")
    point = Point(weight=1.5, guide_step=5, model_ema=0.1, guide_ema=0.05, interval=".2,3")
    words = shlex.split(searched.command(point, "OUT"))
    assert words[:2] == ["python", "sample.py"]
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert run_sampling.Request(
        model=flags.pop("--model"),
        guide=(flags.pop("--guide"),),
        weight=(float(flags.pop("--weight")),),
        interval=(flags.pop("--interval"),),
        num_samples=int(flags.pop("--num_samples")),
        seed=int(flags.pop("--seed")),
        sampler=flags.pop("--sampler"),
        steps=flags.pop("--steps"),
        batch_size=20,
        out="",
    ) == searched.request(point)
    assert flags == {"--out": "OUT"}
    cfg = search(runs, guide=None).command(Point(weight=2), "my samples")
    assert "--cfg 2" in cfg
    assert shlex.split(cfg)[-2:] == ["--out", "my samples"]


def test_a_heat_map_holds_the_lowest_over_all_else():
    measured = {
        Point(weight=1): 9.0,
        Point(weight=2, guide_step=5, guide_ema=0.1): 4.0,
        Point(weight=2, guide_step=5, guide_ema=0.2): 3.0,
        Point(weight=2, guide_step=10, guide_ema=0.1): 5.0,
        Point(weight=3, guide_step=10, guide_ema=0.1): 6.0,
    }
    got = heat_maps.best_of(measured, "weight", "guide_step", [1, 2, 3], [5, 10])
    assert got == [[9.0, 3.0, None], [9.0, 5.0, 6.0]]
    worse = {**measured, Point(weight=1): 1.0}
    assert heat_maps.best_of(worse, "guide_ema", "guide_step", [0.1, 0.2], [5]) == [[4.0, 3.0]]
    gated = {Point(weight=2, interval="1,2"): 2.0, Point(weight=2): 1.0, Point(weight=1): 3.0}
    rows = heat_maps.values_of(gated, "interval")
    assert rows == [None, "1,2"], "guided at all levels is a row too"
    assert heat_maps.best_of(gated, "weight", "interval", [1, 2], rows) == [[3.0, 1.0], [3.0, 2.0]]
    assert heat_maps.best_of({Point(weight=1): 1.0}, "guide_ema", "model_ema", [0.1], [None]) == [
        [1.0]
    ]


def test_a_search_keeps_to_the_steps_that_there_are_when_it_begins(runs, tmp_path):
    """Whatever is trained later, and whatever else is searched."""
    folders = {name: tmp_path / name for name in ("model", "guide")}
    for name, folder in folders.items():
        shutil.copytree(getattr(runs, name), folder)
    searched = search(runs, model=f"{folders['model']}:dropout=.05", guide=str(folders["guide"]))
    points, out = grid(searched, [2], [], [0.1], [0.05], []), tmp_path / "out"
    begun = sweep.pinned(searched, points, out)
    sweep.run(begun, points, runs.classifier, out)
    for folder in folders.values():
        later = folder / "snapshots" / "15"
        shutil.copytree(folder / "snapshots" / "10", later)
        values = read_json(later / "meta" / "metadata") | {"step": 15}
        write_json(later / "meta" / "metadata", values)
    assert sweep.pinned(searched, points, tmp_path / "other").model_step == 15
    more = grid(searched, [2], [5], [0.1], [0.05], [])
    again = sweep.pinned(searched, more, out)
    assert again == begun
    request = begun.request(points[0])
    assert request.model == f"{folders['model']}@10:dropout=0.05,ema=0.1"
    assert request.guide == (f"{folders['guide']}@10:ema=0.05",)
    assert set(sweep.run(again, more, runs.classifier, out)) == {*points, *more}


def test_points_of_runs_that_were_made_anew_do_not_count(runs, swept, tmp_path):
    guide = tmp_path / "guide"
    shutil.copytree(runs.guide, guide)
    searched = search(runs, guide=str(guide))
    points, out = grid(searched, [2], [5], [0.1], [0.05], []), tmp_path / "out"
    sweep.run(searched, points, runs.classifier, out)
    shutil.rmtree(guide)
    history.make(guide, seed=2)
    with pytest.raises(UserError, match="another networks: choose another --out"):
        sweep.run(searched, points, runs.classifier, out)


def test_a_start_that_fails_leaves_the_folder_free(runs, tmp_path):
    kind = {"model__kind": "classifier", "model__pool": "adaptive", "data__image_size": 16}
    other = make_run(tmp_path / "run", tiny.config(**kind, diffusion__label_dropout=0.0))
    searched = search(runs)
    with pytest.raises(UserError, match="give --features of the same images"):
        sweep.run(searched, two_weights(searched), other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes_end_in_a_sentence(runs, written, tmp_path):
    own = [f"--model={runs.model}", f"--features={runs.classifier}", f"--out={tmp_path / 'out'}"]
    lines = {
        "--weights=nan": "--weights holds nan: a weight must be a number",
        "--weights=two": "--weights holds two, which is no number",
        "--guide_steps=1.5": "--guide_steps holds 1.5: give whole numbers",
        "--interval=2,1": "--interval 2,1 is empty",
        "--guide=nowhere": "nowhere is not the folder of a run",
        f"--features={runs.model}": "is a diffusion model: --features wants a classifier",
        f"--model={runs.classifier}": "is a classifier: --model wants a diffusion model",
        "--metric=fid": "fid",
        "--sampler=huen": "huen",
    }
    sweeps = [([*own, "--weights=2", line], words) for line, words in lines.items()]
    check("sweep.py", "jaxdiff.evaluation.sweep", sweeps)
    own = [
        f"--sweeps={','.join(map(str, written))}",
        f"--features={runs.classifier}",
        f"--out={tmp_path / 'out'}",
    ]
    lines = {
        "--seeds=nan": "--seeds holds nan: give whole numbers",
        "--seeds=": "--seeds is empty",
        "--seeds=1,0": "--seeds holds 0, which the sweeps used",
        "--sweeps=": "--sweeps is missing",
        f"--sweeps={tmp_path}": "is not the folder of a sweep",
        f"--sweeps={written[0]},{written[0]}": "Two rows would be called cfg",
        "--out=": "--out is missing",
    }
    check("confirm.py", "jaxdiff.evaluation.confirm", [([*own, k], v) for k, v in lines.items()])
    assert not (tmp_path / "out").exists()


def run_sweep(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxdiff.evaluation.sweep", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_line(runs, tmp_path):
    done = run_sweep(
        f"--model={runs.model}",
        "--weights=1,2",
        "--interval=.1,9",
        "--num_samples=16",
        f"--features={runs.classifier}",
        f"--out={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    values = sweep.Table(tmp_path / "out", "fd").read()
    assert set(values) == {Point(weight=1), Point(weight=2, interval="0.1,9")}
    best = min(values, key=values.get)
    assert f"Best of 2 points, fd {values[best]:.4g}:\npython sample.py --model" in done.stdout
    assert "2 of 2 points" in done.stderr


def test_the_best_points_are_sampled_afresh(runs, written, tmp_path, monkeypatch):
    found = confirm.rows(written)
    assert [(row.name, row.point) for row in found] == [
        ("unguided", Point(weight=1, model_ema=0.05)),
        ("cfg", Point(weight=2, model_ema=0.1)),
        ("both", Point(weight=2, guide_step=10, model_ema=0.05, guide_ema=0.1)),
        ("both, one EMA", Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.1)),
    ]
    table = sweep.Table(written[1], "fd")
    table.add(Point(weight=3, guide_step=10, model_ema=0.1, guide_ema=0.1), 1.0, 1.0)
    name, point = [(row.name, row.point) for row in confirm.rows(written)][-1]
    assert (name, point.guide_ema, point.weight) == ("both, separate EMAs", 0.1, 2)
    features, out = open_features(runs.classifier), tmp_path / "out"
    out.mkdir()
    table = confirm.measure(found, features, [1, 2], 16, out)
    images, labels = dataclasses.replace(found[1].search, num_samples=16).images(found[1].point, 2)
    assert table["cfg"]["agreement"][1] == (
        confirm.judge(history.config().data)[0](images, labels).total_agreement
    )
    assert table["cfg"]["fd"][1] == pytest.approx(
        distance(real_moments(features, history.config().data), Moments.of(features(images)))
    )
    assert table["cfg"]["fd"][0] != table["cfg"]["fd"][1]
    lines = confirm.markdown(found, table).splitlines()
    low, high = (f"{f(table['cfg']['fd']):.3g}" for f in (min, max))
    assert f"({low} to {high})" in lines[3]
    assert lines[4].endswith("| w 2, EMA 0.05, guide at step 10, guide's EMA 0.1 |")
    assert lines[-1].startswith("| real images |")
    assert table[confirm.REAL]["agreement"][0] > 0.9, "an SVC reads most digits"
    assert max(table[confirm.REAL]["fd"]) < min(min(row["fd"]) for row in list(table.values())[:-1])
    assert confirm.picture(found, out, 4).size[1] > 4 * 48
    monkeypatch.setattr(Search, "images", None)
    assert confirm.measure(found, features, [1, 2], 16, out) == table


def test_sweeps_whose_distances_do_not_compare_are_refused(runs, written):
    path = written[0] / sweep.SETTINGS
    settings = read_json(path)
    for changed, words in [
        ({"model": runs.guide}, "different values of run, .*guide"),
        ({"model_step": 5}, "different values of step, 10 and 5"),
        ({"num_samples": 500}, "different values of num_samples, 20 and 500"),
        ({"sampling": {"sampler": "heun"}}, "different values of sampling, .*heun"),
    ]:
        write_json(path, {**settings, **changed})
        with pytest.raises(UserError, match=words):
            confirm.rows(written)


def test_a_table_tells_models_with_dropout_apart(runs, written, tmp_path):
    folder, damaged = tmp_path / "dropout", f"{runs.model}:dropout=0.05"
    shutil.copytree(written[1], folder)
    settings = read_json(folder / sweep.SETTINGS)
    settings |= {"model": damaged, "guide": f"{runs.model}:dropout=0.1"}
    write_json(folder / sweep.SETTINGS, settings)
    found = confirm.rows([written[0], folder])
    assert [row.name for row in found[:2]] == ["unguided", "unguided, dropout 0.05"]
    assert [row.search.model for row in found[:2]] == [runs.model, damaged]
    values = {metric: [0.5, 0.5] for metric in confirm.METRICS}
    text = confirm.markdown(found, {row.name: values for row in found})
    settings = {line.split(" | ")[0]: line.split(" | ")[-1] for line in text.splitlines()}
    assert settings["| unguided"] == "EMA 0.1 |"
    assert settings["| unguided, dropout 0.05"] == "EMA 0.05, dropout 0.05 |"
    assert settings["| dropout"] == (
        "w 2, EMA 0.05, dropout 0.05, guide at step 10, guide's EMA 0.1, guide's dropout 0.1 |"
    )


def test_a_model_without_labels_is_refused():
    data = tiny.config(data__num_classes=0, diffusion__label_dropout=0.0).data
    with pytest.raises(UserError, match="trained without labels"):
        confirm.judge(data)


def test_folders_that_hold_no_search_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not the folder of a sweep"):
        confirm.rows([tmp_path])
    write_json(tmp_path / sweep.SETTINGS, {"model": "a"})
    with pytest.raises(UserError, match="is not the folder of a sweep"):
        confirm.rows([tmp_path])
