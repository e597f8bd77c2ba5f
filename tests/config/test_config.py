"""Settings: types, bounds, contradictions, overrides, config files, config.json."""

import dataclasses
import json
import math
import pathlib
import re
import subprocess
import sys
from typing import Annotated

import pytest

from jaxdiff import config as config_lib
from jaxdiff.config import (
    ADM,
    APG,
    CADS,
    CFG,
    DDIM,
    DDPM,
    EDM,
    Autoguidance,
    ClassifierConfig,
    ClassifierGuidance,
    DataConfig,
    DPMpp,
    Heun,
    Image,
    Label,
    MeshConfig,
    Range,
    RunConfig,
    Schedule,
    Tokens,
    TrainingConfig,
    UNetConfig,
    Vector,
    config_from,
    differences,
    from_dict,
    override,
    replaced,
    settings,
    to_dict,
)
from jaxdiff.config.fields import hints, meanings
from jaxdiff.errors import UserError
from tests import tiny
from tests.conftest import ROOT

CLASSES = (
    *(ADM, EDM, DDPM, DDIM, Heun, DPMpp, UNetConfig, ClassifierConfig),
    *(DataConfig, TrainingConfig, MeshConfig, RunConfig),
    *(CFG, config_lib.ICG, Autoguidance, ClassifierGuidance, APG, CADS, Schedule),
    *(Label, Vector, Image, Tokens),
)
SMALL_CLASSIFIER = ClassifierConfig(
    channels=32, channel_mult=(1,), attention_resolutions=(), head_channels=32
)


@settings
class Elsewhere:
    """Settings that another project might have.

    Attributes:
      depth: of it.
    """

    depth: Annotated[int, Range(1, 9)] = 3
    codec = config_lib.PixelCodec()
    conditions = ()

    def check_shape(self, shape):
        """Anything will do."""


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_says_what_it_means(cls):
    assert set(hints(cls)) == set(meanings(cls))


def numbers():
    """(class, field) of every field that holds one number."""
    return [
        (cls, name)
        for cls in CLASSES
        for name, hint in hints(cls).items()
        if getattr(hint, "__origin__", None) in (int, float)
    ]


@pytest.mark.parametrize(("cls", "name"), numbers())
def test_no_number_may_be_anything(cls, name):
    required = {"weight": 2.0, "guide": "a", "classifier": "a", "scale": 1.0, "data": None}
    required |= {"tau1": 0.5, "tau2": 0.5, "classes": 3, "size": 3, "channels": 1}
    required |= {"length": 3, "width": 3}
    needed = {
        f.name: DataConfig(name="x") if f.name == "data" else required[f.name]
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING
    }
    wrong = [math.nan, -math.inf, True, "1", None]
    if not math.isinf(hints(cls)[name].__metadata__[0].high):
        wrong += [math.inf, 10**30]
    for value in wrong:
        with pytest.raises(UserError, match=rf"\b{name} is "):
            cls(**{**needed, name: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("diffusion.schedule", "quadratic"),
        ("training.batch_size", 0),
        ("training.batch_size", 2.5),
        ("diffusion.condition_dropout", 1.0),
        ("training.weight_decay", 1000.0),  # times .001
        ("training.power_ema", (math.nan,)),
        ("training.power_ema", (0.05, 0.3)),
        ("training.power_ema", (0.1, 0.1)),
        ("model.channel_mult", (1, "a")),
        ("model.channel_mult", ()),
        ("model.channel_mult", (True,)),
        ("model.channel_mult", 3),
        ("model.channels", 20),  # no groups
        ("model.attention_resolutions", (7,)),
        ("model.head_channels", 24),
        ("model.num_heads_upsample", 5),
        ("model.conditions", ()),  # condition_dropout has nothing to drop
        ("model.conditions", (Label(10), Label(3))),
        ("model.conditions", (Tokens(4, 8),)),
        ("model.conditions", ("label",)),
        ("data.fit", "stretch"),
        ("data.image_size", 9),
        ("data.low_res_size", 3),
        ("diffusion.loss", "simple"),
        ("diffusion.prediction", "noise"),
        ("training.anneal_steps", 3),
        ("training.anneal_steps", 10),
        ("sampling", Heun(steps=18, sigma_max=80.0).__class__),
        ("sampling", ADM()),
        ("seed", -1),
    ],
)
def test_values_that_cannot_be_right_are_refused(field, value):
    base = replaced(
        tiny.config(), {"model.channel_mult": (1, 2), "model.attention_resolutions": (4,)}
    )
    with pytest.raises(UserError, match=field.rpartition(".")[2]):
        replaced(base, {field: value})


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Heun(sigma_min=3, sigma_max=2), "sigma_min"),
        (lambda: Heun(churn_min=3, churn_max=2), "churn_min"),
        (lambda: CFG(2, (0.5, 0.1)), "interval"),
        (lambda: CFG(2, (0.5,)), "interval"),
        (lambda: CADS(0.9, 0.6, 0.1), "tau1"),
        (lambda: CADS(0.6, 0.9, 0.1, 1.5), "mix"),
        (lambda: Schedule("clamp-linear"), "clamp-linear"),
        (lambda: Schedule("linear", (1.0,)), "linear"),
        (lambda: Schedule("power-cosine", (0.0,)), "power"),
        (lambda: Schedule("dynamic", (0.9, 0.1)), "dynamic"),
        (lambda: Schedule("quadratic"), "quadratic"),
        (lambda: APG(momentum=1), "momentum"),
        (lambda: ADM(schedule="linear", num_timesteps=20), "num_timesteps"),
        (lambda: EDM(data_std=1e-300), "data_std"),
        (lambda: ClassifierConfig(label=Label(1)), "classes"),
        (lambda: DataConfig(), "data.name"),
        (lambda: replaced(tiny.config(), {"model": SMALL_CLASSIFIER}), "dropout"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(make, word):
    with pytest.raises(UserError, match=word):
        make()


def test_the_linear_schedule_needs_more_timesteps_than_it_is_refused_for():
    from jaxdiff.diffusion.schedules import linear

    assert linear(20).max() >= 1
    assert linear(21).max() < 1
    ADM(schedule="linear", num_timesteps=21)


def test_overrides_are_made_together():
    config = override(
        tiny.config(),
        {
            "model.channel_mult": "1,2",  # without it there is no level of 4
            "model.attention_resolutions": "(4,)",
            "training.power_ema": "",
            "training.remat": "true",
            "sampling.steps": "ddim4",
            "data.channels": "3",
        },
    )
    assert config.model.channel_mult == (1.0, 2.0)
    assert config.model.attention_resolutions == (4,)
    assert config.training.power_ema == ()
    assert config.training.remat is True
    assert config.sampling.steps == "ddim4"
    assert config.data.channels == 3
    assert override(config, {"sampling.steps": "4"}).sampling.steps == 4


@pytest.mark.parametrize(
    ("path", "text", "word"),
    [
        ("training.num_stepz", "1", "num_steps"),
        ("trainin.num_steps", "1", "training"),
        ("training", "1", "training.num_steps"),
        ("seed.x", "1", "seed"),
        ("model.kind", "classifier", "config file"),
        ("training.num_steps", "many", "many"),
        ("training.remat", "perhaps", "perhaps"),
        ("data.channels", "2", "1 or 3"),
        ("model.channel_mult", "1,b", "1,b"),
        ("model.conditions", "Label(3)", "conditions"),
        ("training.num_steps", "0", "num_steps is 0"),
    ],
)
def test_overrides_that_are_none_are_refused(path, text, word):
    with pytest.raises(UserError, match=re.escape(word)):
        override(tiny.config(), {path: text})


@pytest.mark.parametrize(
    "config",
    [
        tiny.config(),
        tiny.config(diffusion=EDM(condition_dropout=0.1), sampling=Heun(churn=40.0)),
        tiny.config(
            model=SMALL_CLASSIFIER,
            diffusion__condition_dropout=0.0,
        ),
        tiny.config(model__conditions=(Vector(16), Image(1), Label(10))),
        tiny.config(model=Elsewhere(depth=5), diffusion__condition_dropout=0.0),
    ],
)
def test_config_json_gives_back_the_config(config):
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(values) == config
    assert values["model"]["kind"] == config.model.kind


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v["model"].update(kind="unt"), "unet"),
        (lambda v: v["model"].update(kind="json:JSONEncoder"), "json:JSONEncoder"),
        (lambda v: v["model"].update(kind="os:abort"), "os:abort"),
        (lambda v: v["model"].update(kind="somebody.networks:Net"), "--import somebody.networks"),
        (lambda v: v["model"].update(widht=3), "widht"),
        (lambda v: v.update(modl={}), "model"),
        (lambda v: v.pop("data"), "data"),
        (lambda v: v.update(model=3), "model"),
        (lambda v: v["training"].update(num_steps=None), "num_steps"),
        (lambda v: v["model"]["conditions"].append({"kind": "smell"}), "smell"),
        (lambda v: v["model"].update(conditions=[3]), "conditions"),
    ],
)
def test_a_config_json_that_says_something_else_is_refused(change, word):
    values = to_dict(tiny.config())
    change(values)
    with pytest.raises(UserError, match=word):
        from_dict(values)


def test_a_run_may_continue_with_what_changes_nothing_of_what_it_computes():
    old = tiny.config()
    free = {"training.num_steps": 40, "sampling": Heun(), "mesh.fsdp": 2, "training.remat": True}
    assert differences(old, replaced(old, free)) == []
    changed = replaced(old, {"training.batch_size": 8, "diffusion": EDM(condition_dropout=0.1)})
    names = " ".join(differences(old, changed))
    assert "training.batch_size (16" in names
    assert "diffusion.kind (adm" in names


CONFIG = """
from jaxdiff.config import DataConfig, RunConfig
def get_config():
    return RunConfig(data=DataConfig(name="x"))
"""


def test_a_command_line_names_a_file_and_fields(tmp_path):
    file = tmp_path / "one.py"
    file.write_text(CONFIG)
    config, others = config_from(
        ["--config", str(file), "--workdir", "w", "--config.seed=3", "-config.mesh.fsdp", "2", "x"]
    )
    assert (config.seed, config.mesh.fsdp, others) == (3, 2, ["--workdir", "w", "x"])
    assert config_from(["--workdir", "w"]) == (None, ["--workdir", "w"])
    assert config_from(["--config", "digits"])[0].model.channels == 32  # installed with jaxdiff


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        (CONFIG, ["--config={}", "--config={}"], "2 times"),
        (CONFIG, ["--config.seed=1"], "without --config"),
        (CONFIG, ["--config={}", "--config.seed"], "no value"),
        (CONFIG, ["--config=/nonexistent.py"], "/nonexistent.py"),
        (CONFIG, ["--config=nonexistent"], "nonexistent"),
        ("def get_config(): return 3", ["--config={}"], "int"),
        ("x = 3", ["--config={}"], "get_config"),
        ("def get_config(: return 3", ["--config={}"], "line 1"),
        ("\ndef get_config(): return 1 / 0", ["--config={}"], "line 2: ZeroDivisionError"),
        ("raise SystemExit(3)", ["--config={}"], "line 1"),
    ],
)
def test_config_files_that_are_none_are_refused(tmp_path, text, arguments, word):
    file = tmp_path / "one.py"
    file.write_text(text)
    with pytest.raises(UserError, match=word):
        config_from([argument.format(file) for argument in arguments])


def test_config_imports_no_jax():
    program = "import sys, jaxdiff.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_every_setting_is_read_somewhere():
    """By name, outside config/: a setting that nothing reads does nothing."""
    texts = [p.read_text() for p in (ROOT / "jaxdiff").rglob("*.py") if p.parent.name != "config"]
    everywhere = "\n".join(texts)
    inside = pathlib.Path(ROOT / "jaxdiff/config/networks.py").read_text()
    for cls in CLASSES:
        for name in hints(cls):
            pattern = rf"\.{name}\b"
            assert re.search(pattern, everywhere) or re.search(rf"self{pattern}", inside), name


def test_the_page_of_settings_is_what_the_dataclasses_say():
    from jaxdiff.config.page import page

    assert (ROOT / "docs/settings.md").read_text() == page()
