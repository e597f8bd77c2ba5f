"""Import and export as commands: an imported file is a run, and an exported run is such a file."""

import json
import shutil

import numpy as np
import pytest
from jaxdiff.interop.openai_infer import Options
from jaxdiff.interop.openai_run import export_run, import_file

from jaxdiff import config as config_lib
from jaxdiff.errors import UserError
from jaxdiff.interop import torch_file
from tests.conftest import ROOT
from tests.refusals import check
from tests.test_command_line import run

CHECKPOINT = ROOT / "tests" / "goldens" / "unet_adm.pt"
CONFIG = """
from jaxdiff.config import base

def get_config():
    config = base()
    config.data.name = "unused"
    config.data.image_size = 16
    config.data.num_classes = 10
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (8,)
    config.model.head_channels = 16
    config.diffusion.num_timesteps = 20
    config.training.num_steps = 700
    config.sampling.steps = "2"
    return config
"""


def command(*arguments):
    return run("-m", "jaxdiff.interop.openai", *arguments)


def done(*arguments):
    code, out, err = command(*arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with config.py, and with `run`, imported with the attention's right order."""
    path = tmp_path_factory.mktemp("interop")
    (path / "config.py").write_text(CONFIG)
    config, out = f"--config={path / 'config.py'}", f"--out={path / 'run'}"
    out = done("import", CHECKPOINT, config, out, "--attention_order=new", "--step=700")
    assert f"{path / 'run'}@700" in out
    return path


def test_an_imported_file_is_a_run_that_can_be_sampled(folder):
    assert json.loads((folder / "run/config.json").read_text())["model"]["head_channels"] == 16
    samples = folder / "samples"
    code, _, err = run(
        "sample.py", f"--model={folder / 'run'}", "--num_samples=3", f"--out={samples}"
    )
    assert code == 0, err
    with np.load(samples / "samples_3x16x16x3.npz") as arrays:
        assert arrays["arr_0"].std() > 0
    assert json.loads((samples / "manifest.json").read_text())["model"].endswith("run@700")


def test_export_gives_the_imported_file_back(folder):
    file = folder / "new" / "exported.pt"
    done("export", f"{folder / 'run'}@700", f"--out={file}", "--attention_order=new")
    old, new = torch_file.read(CHECKPOINT), torch_file.read(file)
    assert old.keys() == new.keys()
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array, err_msg=name)


def test_torch_loads_an_exported_file(folder):
    torch = pytest.importorskip("torch")
    file = folder / "torch.pt"
    export_run(str(folder / "run"), file, new_order=True)
    loaded, new = torch.load(file, weights_only=True), torch_file.read(CHECKPOINT)
    assert loaded.keys() == new.keys()
    assert all(np.array_equal(loaded[name].numpy(), new[name]) for name in new)


def test_half_precision_and_the_other_order_survive_the_way_through_a_run(folder):
    halves = {name: a.astype(np.float16) for name, a in torch_file.read(CHECKPOINT).items()}
    torch_file.write(folder / "half.pt", halves)
    config, out = f"--config={folder / 'config.py'}", folder / "half"
    done("import", folder / "half.pt", config, f"--out={out}", "--step=5")
    done("export", out, f"--out={folder / 'back.pt'}")
    back = torch_file.read(folder / "back.pt")
    for name, array in halves.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array.astype(np.float32), err_msg=name)
    with pytest.raises(UserError, match="has no step 6: it has 5"):
        export_run(f"{out}@6", folder / "x.pt")


def load_config(folder, **overrides):
    namespace = {}
    exec((folder / "config.py").read_text(), namespace)
    config = namespace["get_config"]()
    config.update_from_flattened_dict({n.replace("__", "."): v for n, v in overrides.items()})
    return config


def test_import_refuses_what_cannot_be_used(folder):
    before = sorted(folder.rglob("*"))
    for path, out, overrides, words in (
        (CHECKPOINT, folder / "run", {}, "run is not empty, and nothing is overwritten"),
        (CHECKPOINT, CHECKPOINT, {}, "unet_adm.pt cannot be written"),
        (CHECKPOINT, "/dev/null/run", {}, "/dev/null/run cannot be written"),
        (folder / "nothing.pt", folder / "other", {}, "nothing.pt cannot be read (No such file"),
        (CHECKPOINT, folder / "other", {"model__channels": 64}, "model_channels is 32 by its"),
        (CHECKPOINT, folder / "other", {"model__dropout": 2.0}, "model.dropout is 2.0"),
    ):
        with pytest.raises(UserError) as caught:
            import_file(path, load_config(folder, **overrides), out)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_export_refuses_what_cannot_be_used(folder):
    # The config of a network that learned to be guided without a classifier.
    guided = folder / "guided"
    shutil.copytree(folder / "run", guided)
    config = load_config(folder, diffusion__label_dropout=0.1)
    (guided / "config.json").write_text(config_lib.to_json(config))
    for run_folder, out, words in (
        (folder, folder / "x.pt", "is not the folder of a run"),
        (folder / "run", CHECKPOINT, "exists, and nothing is overwritten"),
        (folder / "run", "/dev/null/x.pt", "/dev/null/x.pt cannot be written"),
        (guided, folder / "x.pt", "null class"),
    ):
        with pytest.raises(UserError) as caught:
            export_run(str(run_folder), out)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (folder / "x.pt").exists()


def test_export_refuses_what_its_files_cannot_say(folder):
    with pytest.raises(UserError, match="run@700:dropout=0.1 has dropout, of which"):
        export_run(f"{folder / 'run'}:dropout=.1", folder / "x.pt")
    edm = folder / "edm"
    shutil.copytree(folder / "run", edm)
    config = load_config(folder, diffusion__process="edm")
    (edm / "config.json").write_text(config_lib.to_json(config))
    with pytest.raises(UserError, match="has the process edm, of which"):
        export_run(str(edm), folder / "x.pt")


def test_a_checkpoint_of_training_is_imported_without_a_config(folder, capsys):
    path = folder / "ema_0.9999_012000.pt"
    tensors = {f"module._orig_mod.{n}": a for n, a in torch_file.read(CHECKPOINT).items()}
    torch_file.write(path, {**tensors, "num_batches_tracked": np.array(5)})
    options = Options(image_size=16, head_channels=16, schedule="cosine")
    import_file(path, None, folder / "bare", new_order=True, options=options)
    said = capsys.readouterr().out
    assert "'module._orig_mod.'" in said
    assert "num_batches_tracked" in said
    assert "bare@12000" in said
    export_run(str(folder / "bare"), folder / "bare.pt", new_order=True)
    for name, array in torch_file.read(CHECKPOINT).items():
        np.testing.assert_array_equal(torch_file.read(folder / "bare.pt")[name], array)
    # Neither the file nor its name says a step, and so no number is made up.
    options = Options(image_size=16, head_channels=16)
    import_file(CHECKPOINT, None, folder / "none", options=options)
    said = capsys.readouterr().out
    assert "linear" in said
    assert "legacy" in said
    assert [path.name for path in (folder / "none" / "snapshots").iterdir()] == ["0"]


def test_an_import_that_fails_leaves_nothing(folder, monkeypatch):
    before = sorted(folder.rglob("*"))
    (folder / "empty").mkdir()

    def fail(config):
        assert any(path.name == "snapshots" for path in folder.rglob("*.partial/*"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config_lib, "to_json", fail)
    for out in (folder / "fresh", folder / "empty"):
        with pytest.raises(UserError, match="No space left"):
            import_file(CHECKPOINT, load_config(folder), out)
    (folder / "empty").rmdir()
    assert sorted(folder.rglob("*")) == before


def test_a_file_that_appears_during_an_export_is_kept(folder, monkeypatch):
    out, write = folder / "raced.pt", torch_file.write

    def write_late(path, tensors):
        write(path, tensors)
        out.write_text("another's")

    monkeypatch.setattr(torch_file, "write", write_late)
    with pytest.raises(UserError, match="raced.pt cannot be written"):
        export_run(str(folder / "run"), out)
    assert out.read_text() == "another's"
    assert not list(folder.glob(".*partial"))


def test_command_lines_are_refused_in_one_sentence():
    lines = [
        (["port", "file.pt"], "The command port is unknown"),
        (["import", "file.pt", "--out=x"], "file.pt cannot be read"),
        (["import", "gs://b/x.pt", "--out=x"], "gs://b/x.pt"),
        (["import", CHECKPOINT, "--out=gs://b/x"], "gs://b/x"),
        (["import", CHECKPOINT, "--out=x"], "--image_size"),
        (["import", "file.pt", "--num_heads=2", "--head_channels=8", "--out=x"], "--num_heads"),
        (["import", "file.pt", "--schedule=linear", "--config=configs/digits.py"], "--schedule"),
        (["export", "run", "--image_size=8", "--out=x.pt"], "--image_size"),
        (["import", "file.pt", "--config=configs/digits.py"], "--out is missing"),
        (["import", "--out=x"], "a file to import"),
        (["export", "runs/nowhere", "--out=x.pt"], "runs/nowhere is not the folder of a run"),
        (["export", "run", "stray", "--out=x.pt"], "stray was not expected"),
        (["export", "run", "--attention_order=old"], "attention_order"),
    ]
    check("openai.py", "jaxdiff.interop.openai", lines)


def test_help_lists_the_flags():
    _, out, _ = command("--help")
    for flag in ("--config", "--out", "--step", "--attention_order"):
        assert f"  {flag}: " in out
    assert "openai export RUN --out FILE" in out
