"""Import and export as commands: an imported file is a run, and an exported run is such a file."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff.checkpoints.run import Run
from jaxdiff.config import ADM, DDPM, EDM, DataConfig, Label, RunConfig, UNetConfig, replaced
from jaxdiff.errors import UserError
from jaxdiff.interop import openai
from jaxdiff.interop.openai_command import export_run, import_file
from jaxdiff.sampling.trained_model import load
from jaxdiff.tensor_files import torch_file
from tests import golden_format
from tests.conftest import ROOT
from tests.programs import refused, run

pytestmark = pytest.mark.usefixtures("alone")

CHECKPOINT = ROOT / "tests" / "goldens" / "unet_adm.pt"
CONFIG = RunConfig(
    data=DataConfig(name="unused", image_size=16),
    model=UNetConfig(
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        head_channels=16,
        conditions=(Label(10),),
    ),
    diffusion=ADM(num_timesteps=20),
    sampling=DDPM(steps=2),
)
FLAGS = (
    "--image_size 16 --num_channels 32 --channel_mult 1,2 --num_res_blocks=1 --learn_sigma True "
    "--attention_resolutions 8 --num_head_channels 16 --class_cond True --resblock_updown True "
    "--noise_schedule cosine --use_new_attention_order True --use_fp16 True"
)


@pytest.fixture(scope="module")
def folder(alone, tmp_path_factory):
    """A folder with `run`, imported with the attention's right order."""
    path = epath.Path(tmp_path_factory.mktemp("interop"))
    import_file(CHECKPOINT, path / "run", config=CONFIG, new_order=True, step=700)
    return path


def same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_an_imported_file_is_a_run_that_computes_what_the_reference_does(folder):
    model = load(str(folder / "run"))
    assert str(model) == f"{folder / 'run'}@700"
    _, arrays = golden_format.load("unet_adm")
    arrays = {k: golden_format.nhwc(a) if a.ndim == 4 else a for k, a in arrays.items()}

    @jax.jit
    def output(params, x, time, labels):
        condition = model.network.embed(params, {"label": labels})
        return model.network.apply(params, x, time, condition)

    got = output(model.params, arrays["x"], arrays["timesteps"], arrays["labels"])
    assert golden_format.error(got, arrays["output"]) <= 1e-5


def test_export_gives_the_imported_file_back(folder):
    file = folder / "new" / "exported.pt"
    export_run(f"{folder / 'run'}@700", file, new_order=True)
    same_tensors(torch_file.read(file), torch_file.read(CHECKPOINT))
    torch = pytest.importorskip("torch")
    loaded = torch.load(file, weights_only=True)
    same_tensors({name: t.numpy() for name, t in loaded.items()}, torch_file.read(CHECKPOINT))


def test_a_checkpoint_of_training_is_imported_by_its_flags(folder):
    state = {f"module._orig_mod.{n}": a for n, a in torch_file.read(CHECKPOINT).items()}
    halves = {name: array.astype(np.float16) for name, array in state.items()}
    torch_file.write(folder / "half.pt", {**halves, "num_batches_tracked": np.array(5)})
    import_file(folder / "half.pt", folder / "half", flags=FLAGS)
    config = Run(folder / "half").config()
    assert config.model == CONFIG.model
    assert config.diffusion == ADM(loss="hybrid_unscaled")
    export_run(str(folder / "half"), folder / "back.pt", new_order=True)
    expected = {n: a.astype(np.float16) for n, a in torch_file.read(CHECKPOINT).items()}
    same_tensors(torch_file.read(folder / "back.pt"), expected)


@pytest.mark.parametrize("name", ["superres", "classifier_attention", "unet_ddpm_style"])
def test_flags_make_the_network_of_a_golden_case(name):
    from jaxdiff.interop.openai_flags import config_of

    case, _ = golden_format.load(name)
    options, state_dict = dict(case["kwargs"]), golden_format.seeded(case["state_dict"])
    size = options["image_size"]
    attention = ",".join(str(size // rate) for rate in options["attention_resolutions"])
    mult = ",".join(map(str, options["channel_mult"]))
    flags = f"--channel_mult {mult} "
    if name == "classifier_attention":
        network = openai.classifier_network(**options)
        # That program has heads of 64 channels alone.
        network = dataclasses.replace(
            network, config=dataclasses.replace(network.config, head_channels=64)
        )
        flags += (
            f"--image_size {size} --classifier_width {options['model_channels']} "
            f"--classifier_depth {options['num_res_blocks']} "
            f"--classifier_attention_resolutions {attention}"
        )
    else:
        is_superres = name == "superres"
        network = openai.unet_network(**options, super_resolution=is_superres)
        flags += (
            f"--{'large' if is_superres else 'image'}_size {size} --small_size {size // 2} "
            f"--num_channels {options['model_channels']} --attention_resolutions {attention} "
            f"--num_res_blocks {options['num_res_blocks']} "
            f"--num_heads {options.get('num_heads', 1)} "
            f"--num_head_channels {options.get('num_head_channels', -1)} "
            f"--class_cond {bool(options.get('num_classes'))} "
            f"--learn_sigma {options['out_channels'] == 6} "
            f"--resblock_updown {options.get('resblock_updown', False)} "
            f"--use_scale_shift_norm {options.get('use_scale_shift_norm', False)}"
        )
    config, _ = config_of(flags, state_dict)
    assert config.model == network.config
    assert (config.data.low_res_size > 0) == (name == "superres")


def test_what_cannot_be_used_is_refused_and_leaves_nothing(folder, monkeypatch):
    run_folder = str(folder / "run")
    shutil.copytree(folder / "run", folder / "null")
    Run(folder / "null").write_config(replaced(CONFIG, {"diffusion.condition_dropout": 0.1}))
    shutil.copytree(folder / "run", folder / "edm")
    Run(folder / "edm").write_config(replaced(CONFIG, {"diffusion": EDM()}))
    (folder / "empty").mkdir()
    before = sorted(pathlib.Path(folder).rglob("*"))
    other = replaced(CONFIG, {"model.channels": 64})
    for path, out, config, words in (
        (CHECKPOINT, folder / "run", CONFIG, "not empty"),
        (CHECKPOINT, CHECKPOINT, CONFIG, "unet_adm.pt"),
        (CHECKPOINT, "/dev/null/run", CONFIG, "/dev/null/run"),
        (folder / "nothing.pt", folder / "other", CONFIG, "nothing.pt"),
        (CHECKPOINT, folder / "other", other, "time_embed.0.weight"),
        (CHECKPOINT, folder / "other", replaced(CONFIG, {"diffusion": EDM()}), "edm"),
    ):
        with pytest.raises(UserError, match=words):
            import_file(path, out, config=config, new_order=True)
    for reference, out, words in (
        (str(folder), folder / "x.pt", "is not the folder of a run"),
        (f"{run_folder}@6", folder / "x.pt", "has no step 6"),
        (run_folder, CHECKPOINT, "unet_adm.pt"),
        (run_folder, "/dev/null/x.pt", "/dev/null/x.pt"),
        (f"{run_folder}:dropout=.1", folder / "x.pt", "dropout"),
        (str(folder / "null"), folder / "x.pt", "null condition"),
        (str(folder / "edm"), folder / "x.pt", "edm"),
    ):
        with pytest.raises(UserError, match=words):
            export_run(reference, out, new_order=True)

    def fail(self, config):
        raise UserError("No space left")

    monkeypatch.setattr(Run, "write_config", fail)
    for out in (folder / "fresh", folder / "empty"):
        with pytest.raises(UserError, match="No space left"):
            import_file(CHECKPOINT, out, config=CONFIG, new_order=True)
    (folder / "empty").mkdir(exist_ok=True)
    assert sorted(pathlib.Path(folder).rglob("*")) == before


def test_the_command_line(tmp_path, capsys):
    file, out = tmp_path / "b.pt", tmp_path / "run"
    code, printed, err = run(
        "-m", "jaxdiff.interop.openai", "import", CHECKPOINT, f"--flags={FLAGS}", f"--out={out}"
    )
    assert code == 0, err
    assert f"{out}@0" in printed
    export = ["export", out, f"--out={file}"]
    refused(
        openai.main,
        capsys,
        [
            (["port", "file.pt"], "port"),
            (["import", "file.pt", "--out=x"], "--config"),
            (["import", "file.pt", "--out=x", "--flags=--depth 3"], "file.pt"),
            (["import", CHECKPOINT, f"--out={tmp_path}/x", "--flags=--depth 3"], "--depth"),
            (["import", CHECKPOINT, f"--out={tmp_path}/x", "--flags=--num_heads x"], "--num_heads"),
            (["import", "file.pt", "--out=x", "--config=configs/digits.py"], "--attention_order"),
            (["import", "file.pt", f"--flags={FLAGS}"], "--out is missing"),
            (["import", "--out=x"], "source"),
            ([*export, "--attention_order=old"], "attention_order"),
            (export, "--attention_order"),
        ],
    )
    assert not file.exists()
