"""What sweeps found, sampled again: on sweeps whose tables were written by hand."""

import dataclasses

import pytest
from etils import epath

from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from jaxdiff.evaluation.run_sweep import SETTINGS, Table
from jaxdiff.evaluation.search import Point, Search
from jaxdiff.files import read_json, write_json
from studies import confirm
from studies.tables import markdown
from tests import history, runs

pytestmark = pytest.mark.usefixtures("alone")

CFG = {Point(weight=1, model_ema=0.1): 4.7, Point(weight=2, model_ema=0.1): 4.0}
BOTH = {
    Point(weight=1, model_ema=0.1): 5.0,
    Point(weight=1, model_ema=0.05): 4.5,
    Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.1): 3.0,
    Point(weight=3, guide_step=5, model_ema=0.05, guide_ema=0.05): 3.5,
    Point(weight=2, guide_step=10, model_ema=0.05, guide_ema=0.1): 2.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs called model, guide and classifier."""
    folder = tmp_path_factory.mktemp("runs")
    history.make(folder / "model")
    history.make(folder / "guide", seed=1)
    runs.make_run(folder / "classifier", runs.classifier())
    return folder


@pytest.fixture
def written(folder, tmp_path):
    """Writes the folder of a sweep."""

    def write(name, measured, **fields):
        common = {"model": str(folder / "model"), "guide": str(folder / "guide")}
        search = Search(**{**common, "num_samples": 20, "batch_size": 20, **fields})
        out = epath.Path(tmp_path / name)
        settings = {"metrics": ["fd"], "features": "f", "sampling": {"kind": "dpmpp"}}
        write_json(out / SETTINGS, {**search.settings(), **settings})
        for point, value in measured.items():
            Table(out, ("fd",)).add(point, {"fd": value}, 1.0)
        return out

    return write


def test_the_best_points_are_sampled_again(folder, written, tmp_path, monkeypatch):
    sweeps = [written("cfg", CFG, guide=None), written("both", BOTH)]
    found = confirm.rows(sweeps)
    assert [(row.name, row.point) for row in found] == [
        ("unguided", Point(weight=1, model_ema=0.05)),
        ("cfg", Point(weight=2, model_ema=0.1)),
        ("both", Point(weight=2, guide_step=10, model_ema=0.05, guide_ema=0.1)),
        ("both, one EMA", Point(weight=2, guide_step=5, model_ema=0.1, guide_ema=0.1)),
    ]
    same = Point(weight=3, guide_step=10, model_ema=0.1, guide_ema=0.1)
    Table(sweeps[1], ("fd",)).add(same, {"fd": 1.0}, 1.0)
    name, point = [(row.name, row.point) for row in confirm.rows(sweeps)][-1]
    assert (name, point.guide_ema, point.weight) == ("both, separate EMAs", 0.1, 2)

    extractor, out = open_extractor(str(folder / "classifier")), epath.Path(tmp_path / "out")
    table = confirm.measure(found, extractor, [1, 2], 16, out)
    samples = dataclasses.replace(found[1].search, num_samples=16).samples(found[1].point, 2)
    judge, _ = confirm.judge(history.config())
    score = judge(samples.images, samples.cond["label"])
    assert table["cfg"]["agreement"][1] == score.total_agreement
    real = open_split(history.config().data, "train", ()).all()["x"]
    fd = distance(*(Moments.of(extractor(x)["features"]) for x in (real, samples.images)))
    assert table["cfg"]["fd"][1] == pytest.approx(fd)
    assert table["cfg"]["fd"][0] != table["cfg"]["fd"][1]
    assert table[confirm.REAL]["agreement"][0] > 0.9, "an SVC reads most digits"
    assert max(table[confirm.REAL]["fd"]) < min(min(row["fd"]) for row in list(table.values())[:-1])

    lines = markdown(confirm.HEADINGS, confirm.cells(found, table)).splitlines()
    low, high = (f"{f(table['cfg']['fd']):.3g}" for f in (min, max))
    assert f"({low} to {high})" in lines[3]
    assert lines[4].endswith("| w 2, EMA 0.05, guide at step 10, guide's EMA 0.1 |")
    assert confirm.picture(found, out, 4).size[1] > 4 * 48
    monkeypatch.setattr(Search, "samples", None)
    assert confirm.measure(found, extractor, [1, 2], 16, out) == table


def test_sweeps_whose_distances_do_not_compare_are_refused(folder, written):
    sweeps = [written("cfg", CFG, guide=None), written("both", BOTH)]
    path = sweeps[0] / SETTINGS
    settings = {name: v for name, v in read_json(path).items() if name != "checksum"}
    for changed, words in [
        ({"model": str(folder / "guide")}, "run, .*guide"),
        ({"model_step": 5}, "step, .*10.*5"),
        ({"num_samples": 500}, "num_samples, 20 and 500"),
        ({"sampling": {"kind": "heun"}}, "sampling, .*heun"),
        ({"metrics": ["recall"]}, "no Frechet distances"),
    ]:
        write_json(path, {**settings, **changed})
        with pytest.raises(UserError, match=words):
            confirm.rows(sweeps)
    write_json(path, {"model": "a"})
    with pytest.raises(UserError, match="is not the folder of a sweep"):
        confirm.rows(sweeps)
    with pytest.raises(UserError, match="without labels"):
        confirm.judge(runs.unlabelled())


def test_models_with_dropout_have_rows_of_their_own(folder, written):
    model = str(folder / "model")
    plain = written("cfg", CFG, guide=None)
    rates = {"model": f"{model}:dropout=0.05", "guide": f"{model}:dropout=0.1"}
    found = confirm.rows([plain, written("dropout", BOTH, **rates)])
    assert [row.name for row in found[:2]] == ["unguided", "unguided, dropout 0.05"]
    values = {metric: [0.5, 0.5] for metric in confirm.METRICS}
    settings = {row[0]: row[-1] for row in confirm.cells(found, {r.name: values for r in found})}
    assert settings["unguided, dropout 0.05"] == "EMA 0.05, dropout 0.05"
    assert settings["dropout"] == (
        "w 2, EMA 0.05, dropout 0.05, guide at step 10, guide's EMA 0.1, guide's dropout 0.1"
    )
