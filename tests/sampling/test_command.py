"""sample.py: from flags to values, files of conditions, and whole commands."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff.config import (
    APG,
    CADS,
    CFG,
    DDIM,
    DDPM,
    EDM,
    ICG,
    Autoguidance,
    ClassifierGuidance,
    Heun,
    Image,
    Label,
    Schedule,
    Vector,
)
from jaxdiff.errors import UserError
from jaxdiff.sampling import command
from jaxdiff.sampling.trained_model import load
from tests import tiny
from tests.conftest import ROOT
from tests.programs import refused
from tests.runs import make_run

pytestmark = pytest.mark.usefixtures("alone")


def parsed(*flags):
    return command.parser().parse_args([str(flag) for flag in flags])


def guidance(text):
    return command.guidance_of(parsed(*text.split()))


def test_flags_become_guidance_specs():
    linear = Schedule("linear")
    clamp = Schedule("clamp-cosine", (2,))
    cases = {
        "": [],
        "--cfg 2": [CFG(2)],
        "--cfg 2 --icg": [ICG(2)],
        "--cfg 0 --icg": [ICG(0)],
        "--cfg=-1": [CFG(-1)],
        "--guide a@5 --weight 1.7": [Autoguidance("a@5", 1.7)],
        "--guide a --guide b --weight 2 --weight 3 --guide_null 4 --guide_null 5 --cfg 6": [
            CFG(6),
            Autoguidance("a", 2),
            Autoguidance("b", 3),
            Autoguidance("a", 4, null=True),
            Autoguidance("b", 5, null=True),
        ],
        "--cfg 2 --schedule linear --interval .1,5 --classifier c": [
            CFG(2, (0.1, 5), linear),
            ClassifierGuidance("c", 1, (0.1, 5)),
        ],
        "--cfg 2 --guide a --weight 3 --schedule linear --schedule clamp-cosine,2 "
        "--interval 1,2 --interval 3,inf --interval 0,5 --classifier c --classifier_scale 0": [
            CFG(2, (1, 2), linear),
            Autoguidance("a", 3, interval=(3, np.inf), schedule=clamp),
            ClassifierGuidance("c", 0, (0, 5)),
        ],
    }
    for text, expected in cases.items():
        assert guidance(text) == expected, text
    assert command.settings_of(CADS, "cads", (0.6, 0.9, 0.1)) == CADS(0.6, 0.9, 0.1)
    assert command.settings_of(APG, "apg", parsed("--apg", "0,-.5,inf").apg) == APG(0, -0.5)


def test_flags_change_the_runs_sampler():
    adm, edm = tiny.config(), tiny.config(diffusion=EDM(), sampling=Heun(steps=5, churn=3))

    def sampler(config, text):
        return command.sampler_of(parsed(*text.split()), config)

    assert sampler(adm, "") == DDPM(steps=4)
    assert sampler(adm, "--steps ddim10 --noclip") == DDPM(steps="ddim10", clip=False)
    assert sampler(adm, "--sampler ddim --eta .5") == DDIM(steps=4, eta=0.5)
    assert sampler(adm, "--latents x") == DDIM(steps=4)
    assert sampler(adm, "--sampler heun --rho 3") == Heun(steps=4, rho=3)
    assert sampler(edm, "--steps 7 --churn_max 2") == Heun(steps=7, churn=3, churn_max=2)
    assert sampler(edm, "--sampler ddpm --sigma_max 9") == DDPM(steps=5, sigma_max=9)
    for config, text, words in (
        (adm, "--eta .5", "--eta 0.5"),
        (adm, "--churn 0", "--churn 0.0"),
        (adm, "--sigma_min .01", "--sigma_min 0.01"),
        (adm, "--sampler heun --steps ddim10", "ddim10"),
        (adm, "--sampler heun --sigma_min 90", "90"),
        (edm, "--eta 0", "--eta 0.0"),
    ):
        with pytest.raises(UserError, match=words):
            sampler(config, text)


REFUSALS = [
    ("--cfg 2 --interval 5,.1", "5.0, 0.1"),
    ("--cfg 2 --interval 1", "interval is"),
    ("--cfg 2 --interval nan,1", "--interval is .*nan"),
    ("--cfg 2 --interval a,1", "--interval is a,1"),
    ("--cfg 2 --schedule ramp", "ramp.*static"),
    ("--cfg 2 --schedule linear,2", "linear"),
    ("--cfg 2 --schedule clamp-linear", "least"),
    ("--cfg 2 --schedule power-cosine,0", "power"),
    ("--cfg 2 --schedule dynamic,.9,.6", "tau1"),
    ("--cfg 2 --schedule linear --schedule sine", "2 times for 1"),
    ("--cfg 2 --interval .1,5 --interval .2,5", "2 times for 1"),
    ("--schedule linear", "--schedule is given 1 times for 0"),
    ("--interval 1,2", "--interval is given 1 times for 0"),
    ("--weight 2", "needs --guide"),
    ("--guide a --weight 2 --weight 3", "--weight"),
    ("--guide a", "a has no weight"),
    ("--guide_null 2", "needs --guide"),
    ("--icg", "needs --cfg"),
    ("--cfg nan", "--cfg is nan"),
    ("--guide a --weight inf", "inf"),
    ("--classifier_scale 2", "needs --classifier"),
    ("--classifier_scale 0", "needs --classifier"),
    ("--cads .6", "TAU1,TAU2,SCALE"),
    ("--cads .9,.6,.1", "tau1"),
    ("--apg 0,-1", "momentum"),
    ("--apg 1,0,1,1", "ETA"),
    ("--num_samples 0", "--num_samples is 0"),
    ("--num_samples 9999999999999", "--num_samples is 9999999999999"),
    ("--seed -1", "--seed"),
    ("--sampler euler", "--sampler is euler"),
    ("--sampler heun --eta nan", "--eta is nan"),
    ("--guid a", "--guide"),
]


@pytest.mark.parametrize(("text", "words"), REFUSALS)
def test_flags_that_have_no_meaning_are_refused(text, words):
    def values():
        args = parsed(*text.split())
        command.guidance_of(args)
        command.settings_of(CADS, "cads", args.cads)
        command.settings_of(APG, "apg", args.apg)

    with pytest.raises(UserError, match=words) as caught:
        values()
    assert "\n" not in str(caught.value)


def test_classes_are_numbers_and_ranges():
    assert command.parse_classes("0,3, 5-7") == [0, 3, 5, 6, 7]
    for text in ("one", "5-3", "0-9999999999", "²", "0-²", "3-", "-3", "1-2-3", ""):
        with pytest.raises(UserError):
            command.parse_classes(text)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "labelled", tiny.config())


@pytest.fixture(scope="module")
def enlarging(tmp_path_factory):
    conditions = (Label(10), Image(1))
    config = tiny.config(model__conditions=conditions, data__low_res_size=4)
    return make_run(tmp_path_factory.mktemp("runs") / "enlarging", config)


def test_conditions_come_from_files_and_splits(labelled, enlarging, tmp_path):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "samples.npz", arr_0=images, arr_1=np.array([7, 0, 7]))
    np.savez(tmp_path / "named.npz", image=images / 127.5 - 1, label=np.array([7, 0, 7]))
    model, found = load(enlarging, imports=["studies.digits.data"]), []
    for name in ("samples", "named"):
        args = parsed("--cond", tmp_path / f"{name}.npz")
        cond, start = command.conditions_of(args, model)
        assert start is None
        found.append(model.job(3, cond=cond).cond)
    for name in ("image", "label"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-6)
    np.savez(tmp_path / "latents.npz", arr_0=images / 100, arr_1=np.array([7, 0, 7]))
    cond, start = command.conditions_of(
        parsed("--latents", tmp_path / "latents.npz"), load(labelled)
    )
    assert cond["label"].tolist() == [7, 0, 7]
    np.testing.assert_array_equal(start, images / 100)
    cond, _ = command.conditions_of(parsed("--cond_split", "test", "--num_samples", 5), model)
    assert (cond["image"].shape, cond["label"].shape) == ((5, 4, 4, 1), (5,))
    with pytest.raises(UserError, match="one of them"):
        command.conditions_of(parsed("--cond", "x", "--latents", "y"), model)
    with pytest.raises(UserError, match="arr_0"):
        command.conditions_of(parsed("--latents", tmp_path / "named.npz"), model)


def test_arrays_of_one_value_do_not_count_samples():
    config = tiny.config(model__conditions=(Label(10), Vector(16)))
    one = {"label": np.array(3), "vector": np.zeros(16), "mask": np.ones(4)}
    assert command._one_each(one, np.zeros((8, 8, 1)), config) == {}
    each = {"label": np.array([3, 4]), "vector": np.zeros((2, 16))}
    assert set(command._one_each(each, np.zeros((2, 8, 8, 1)), config)) == {*each, "start"}


def test_a_command_samples_and_says_what_it_costs(labelled, tmp_path):
    flags = ["--model", labelled, "--out", tmp_path / "out", "--num_samples", 5]
    flags += ["--cfg", 2, "--interval", ".1,5", "--schedule", "linear", "--cads", ".6,.9,.1"]
    flags += ["--apg", "0,-.5,10", "--rescale", ".7", "--sampler", "heun", "--classes", "3,7-8"]
    result = subprocess.run(
        [sys.executable, "sample.py", *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    on = np.flatnonzero(np.array(manifest["weights"][0]) != 1)
    assert 0 < len(on) < 4
    spent = 2 * len(on) - (3 in on)
    assert manifest["network_evaluations_per_sample"] == {"model": 7 + spent}
    assert f"{7 + spent} of model" in result.stdout
    with np.load(tmp_path / "out" / "samples_5x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], [3, 7, 8, 3, 7])


def test_commands_are_refused_in_a_sentence(labelled, tmp_path, capsys):
    own = ["--model", labelled, "--out", tmp_path / "out"]
    lines = {
        (): "--model is missing",
        ("--out", "x", "--model", "64x64.pt"): "jaxdiff.interop.openai import 64x64.pt",
        ("--out", "x", "--model", "ftp://b/run"): "ftp://b/run",
        (*own, "--apg", "0,-.5,10"): "APG",
        (*own, "--cfg", "2", "--interval", "5,.1"): "interval",
        (*own, "--classes", "10"): "label has 10",
        (*own, "--guide", str(tmp_path), "--weight", "2"): "not the folder of a run",
    }
    refused(command.main, capsys, lines.items())
    assert not (tmp_path / "out").exists()
