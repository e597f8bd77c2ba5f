"""The command as people run it, with a classifier's features: prints, files and refusals."""

import csv
import json
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff
from jaxdiff.evaluation import command, nearest, report
from tests import runs
from tests.programs import call, refused, run_together

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with samples a, b and c.npz, real images, and a classifier's run."""
    folder, random = tmp_path_factory.mktemp("evaluation"), np.random.RandomState(0)
    made = random.randint(0, 256, (4, 30, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(30) % 3
    for name, images in zip("ab", made, strict=False):
        jaxdiff.Samples(images=images, cond={"label": labels}).save(folder / name)
    np.savez(folder / "c.npz", arr_0=made[2])
    real = np.concatenate([made[3], made[0, 5:6]])  # the last one is a copy of a sample
    np.savez(folder / "real.npz", images=real, labels=np.arange(31) % 3)
    change = partial(jax.tree.map, lambda leaf: 4 * leaf)  # features that differ by more
    runs.make_run(folder / "runs" / "classifier", runs.classifier(), change=change)
    return folder


def flags(work, *others, samples=("a",)):
    given = [f"--samples={work / name}" for name in samples]
    features = f"--features={work / 'runs' / 'classifier'}"
    return [*given, f"--reference={work / 'real.npz'}", features, *others]


def written(folder, prefix=""):
    """{(metric, repeats): record} of metrics.json, whose rows metrics.csv has too."""
    records = json.loads((folder / f"{prefix}metrics.json").read_text())["records"]
    with open(folder / f"{prefix}metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in each.items()} for each in records] == rows
    return {(record["metric"], record["repeats"]): record for record in records}


def test_values_are_printed_and_written_and_later_ones_added(work, capsys):
    assert call(command.main, *flags(work, "--metrics=fd,recall")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    first = written(work / "a")
    value = first["fd", 1]
    size = runs.CLASSIFIER["channels"]
    assert f"fd(classifier@10, n=30, ref=real.npz, m=31) {value['value']:.6g} " in printed
    assert f"Warning, fd: 30 samples and 31 reference images are no more than the {size}" in printed
    assert value["weights_sha256"][:16] in printed
    assert value["reference_sha256"][:16] in printed
    assert value["samples"] == str(work / "a")
    assert call(command.main, *flags(work, "--metrics=fd,vendi,mss")) == 0
    both = written(work / "a")
    assert [name for name, _ in both] == ["fd", "recall", "vendi", "vendi_all", "mss"]
    assert both["recall", 1] == first["recall", 1]
    assert both["fd", 1] == first["fd", 1]
    assert both["mss", 1]["reference"] is None
    assert call(command.main, *flags(work, "--metrics=fd", "--reference_images=9")) == 0
    assert list(written(work / "a")) == list(both)  # of all images, as before
    in_python = jaxdiff.evaluate(
        work / "a", work / "real.npz", ("fd",), features=str(work / "runs" / "classifier")
    )
    assert in_python["fd"].value == value["value"]


def test_repeats_have_a_mean_a_minimum_and_a_maximum(work, capsys, tmp_path):
    where = f"--out={tmp_path}"
    assert call(command.main, *flags(work, where, "--metrics=fd", samples=("a", "b", "c.npz"))) == 0
    printed = capsys.readouterr().out
    records = json.loads((tmp_path / "metrics.json").read_text())["records"]
    found, last = [record["value"] for record in records[:3]], records[3]
    assert last["repeats"] == 3
    assert last["value"] == pytest.approx(np.mean(found))
    assert (last["lowest"], last["highest"]) == (min(found), max(found))
    assert f"minimum of 3 {min(found):.6g}" in printed
    assert not (work / "b" / "metrics.json").exists()
    some = ("--num_samples=20", "--seeds=0,1", "--metrics=recall", where)
    assert call(command.main, *flags(work, *some)) == 0
    assert "random subsets of 20 of 30 samples, by seeds 0, 1" in capsys.readouterr().out
    last = written(tmp_path)["recall", 2]
    assert (last["n"], last["seed"], last["reference_images"]) == (20, "0,1", 31)


def test_results_of_an_npz_file_are_beside_it_and_all_that_can_be_is_measured(work, capsys):
    assert call(command.main, *flags(work, samples=("c.npz",))) == 0
    names = [name for name, _ in written(work, "c.")]
    assert names == ["fd", "precision", "recall", "density", "coverage", "vendi"]
    printed = capsys.readouterr().out
    assert "Left out: kid, as its subsets of 1000 are larger than the 30 samples." in printed
    assert f"Left out: mss, as {work / 'c.npz'} has no labels." in printed


def test_results_of_a_folder_of_pictures_are_no_pictures_of_it(work, tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    for number, image in enumerate(np.load(work / "c.npz")["arr_0"][:5]):
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    for _ in range(2):
        given = flags(work, f"--samples={folder}", "--metrics=vendi", "--nearest=2", samples=())
        assert call(command.main, *given) == 0
    assert written(tmp_path, "x.")["vendi", 1]["n"] == len(list(folder.iterdir())) == 5
    assert (tmp_path / "x.nearest.png").exists()


def test_a_copy_of_a_real_image_is_the_nearest(work, tmp_path, capsys):
    out = f"--out={tmp_path}"
    assert call(command.main, *flags(work, "--metrics=vendi", "--nearest=4", out)) == 0
    assert "nearest.png shows the 4 of 30 samples" in capsys.readouterr().out
    found = json.loads((tmp_path / "nearest.json").read_text())
    assert (found["numbers"][0], found["neighbours"][0][0]) == (5, 30)
    assert found["distances"][0][0] == pytest.approx(0, abs=1e-5)
    assert found["distances"][1][0] > 0
    with Image.open(tmp_path / "nearest.png") as picture:
        tile = 8 * 6 + 2 * 2  # enlarged to 48 pixels, with margins
        assert picture.size == (6 * tile, 4 * (tile + 12))
        shown = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(shown[2:50, 2:50], shown[2:50, tile + 2 : tile + 50])


def test_nearest_rows_are_those_of_brute_force():
    random = np.random.RandomState(0)
    rows, real = np.float32(random.randn(1203, 5)) + 1000, np.float32(random.randn(40, 5)) + 1000
    numbers, distances = nearest.nearest(rows, real, 3)
    full = np.sqrt(((np.float64(rows)[:, None] - np.float64(real)) ** 2).sum(2))
    np.testing.assert_allclose(distances, np.sort(full, axis=1)[:, :3], rtol=1e-12)
    np.testing.assert_array_equal(numbers, np.argsort(full, axis=1, kind="stable")[:, :3])


def test_a_reference_file_is_made_and_not_made_over(work, tmp_path, capsys):
    made, features = tmp_path / "made.npz", f"--features={work / 'runs' / 'classifier'}"
    make = (f"--reference={work / 'real.npz'}", features, f"--make_reference={made}")
    assert call(command.main, *make) == 0
    refused(command.main, capsys, [(make, "is there already")])
    before = made.read_bytes()
    flag = flags(work, f"--out={tmp_path}", "--metrics=fd,recall")
    assert call(command.main, *flag) == 0
    direct = written(tmp_path)
    flag[1] = f"--reference={made}"
    assert call(command.main, *flag) == 0
    for name in (("fd", 1), ("recall", 1)):
        assert written(tmp_path)[name]["value"] == pytest.approx(direct[name]["value"])
    assert made.read_bytes() == before


def test_files_that_are_not_ours_stay(work, tmp_path, capsys):
    table, both = tmp_path / "metrics.csv", flags(work, f"--out={tmp_path}", "--metrics=fd")
    table.write_text("somebody's")
    refused(command.main, capsys, [(both, "not of this command")])
    assert table.read_text() == "somebody's"
    table.unlink()
    assert call(command.main, *both) == 0
    file = tmp_path / "metrics.json"
    good = file.read_text()
    for text in (
        good.replace('"n": 30', '"n": 31'),
        good[:-40],
        '{"records": 3}',
        '{"records": [3]}',
        "[]",
    ):
        file.write_text(text)
        refused(command.main, capsys, [(both, "give another --out")])
        assert file.read_text() == text
    picture = tmp_path / "nearest.png"
    file.write_text(good)
    picture.write_text("a picture")
    refused(command.main, capsys, [([*both, "--nearest=2"], "nearest.png is not of this command")])
    assert picture.read_text() == "a picture"
    run = f"--out={work / 'runs' / 'classifier'}"
    refused(command.main, capsys, [(flags(work, run), "the folder of a run")])


def test_what_cannot_be_measured_is_refused_in_one_sentence(work, tmp_path, capsys):
    one, others = f"--samples={work / 'a'}", flags(work)[1:]
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((4, 8, 8, 1), np.float32))
    (tmp_path / "empty").mkdir()
    lines = {
        ("--metrics=fid,kdi", one): "did you mean kid?",
        ("--metrics=", one): "No metrics",
        ("--metrics=fid", one): "ask for fd",
        ("--metrics=kid", one): "kid_size",
        ("--seeds=0,1", one): "--num_samples",
        ("--seeds=1,1", "--num_samples=9", one): "repeats one",
        ("--num_samples=31", one): "more than the 30",
        ("--num_samples=30", "--seeds=0,1", one): "are the same",
        (one, one): "hold the same images",
        ("--nearest=31", one): "--nearest 31",
        ("--nearest=2", "--reference_images=1", one): "--reference_images",
        (f"--samples={tmp_path / 'float.npz'}",): "uint8",
        (f"--samples={tmp_path / 'empty'}",): "empty",
        (f"--samples={tmp_path / 'nothing'}",): "nothing",
        (): "--samples is missing",
        ("--samples=",): "is empty",
        ("--out=", one): "--out is empty",
        (f"--out={tmp_path / 'float.npz'}", one): "which is a file",
    }
    refused(command.main, capsys, [([*line, *others], words) for line, words in lines.items()])
    without = [one, others[1]]
    refused(command.main, capsys, [([*without, "--nearest=2"], "--nearest needs --reference")])
    refused(command.main, capsys, [([*without, "--metrics=fd"], "there is no reference")])
    refused(command.main, capsys, [([*without, "--reference="], "reference is empty")])
    both = [f"--make_reference={tmp_path / 'x.npz'}", one, *others]
    refused(command.main, capsys, [(both, "2 are given")])
    assert {path.name for path in tmp_path.iterdir()} == {"float.npz", "empty"}


def test_two_processes_measure_what_one_does(work, tmp_path):
    names = "--metrics=fd,precision,vendi,mss"
    assert call(command.main, *flags(work, names, f"--out={tmp_path / 'one'}")) == 0
    for folder in (work / "a" / "features", work / "real.features"):
        for file in folder.iterdir():
            file.unlink()
    first, second = run_together("evaluate.py", *flags(work, names, f"--out={tmp_path / 'two'}"))
    assert "Wrote" in first
    assert "Wrote" not in second  # one of them speaks
    assert "samples" not in second
    one, two = (written(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4)
    assert {*report.FIELDS} == {*one["fd", 1]}
