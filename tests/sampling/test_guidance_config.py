"""Guided jobs: what they record, and requests that are refused in a sentence."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.sampling import run_sampling
from tests import tiny
from tests.conftest import ROOT
from tests.refusals import check
from tests.sampling.test_job import make_run, sample

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def make(name, **fields):
        return make_run(folder / name, tiny.config(**fields))

    return {
        "main": make("main"),
        "certain": make("certain", diffusion__label_dropout=0.0),
        "unlabelled": make("unlabelled", data__num_classes=0, diffusion__label_dropout=0.0),
        "large": make("large", data__image_size=16),
        "other": make("other", data__num_classes=7),
        "eager": make("eager", sampling__steps="ddim10"),
        "classifier": make("classifier", model__kind="classifier", diffusion__label_dropout=0.0),
        "linear": make(
            "linear",
            model__kind="classifier",
            diffusion__label_dropout=0.0,
            diffusion__schedule="linear",
            diffusion__num_timesteps=30,
        ),
    }


REFUSALS = [
    ({"cfg": 2, "interval": ("5,.1",)}, "--interval 5,.1 is empty: LO must be less than HI"),
    ({"cfg": 2, "interval": ("1,1",)}, "--interval 1,1 is empty"),
    ({"cfg": 2, "interval": ("-1,1",)}, "--interval -1,1 is empty"),
    ({"cfg": 2, "interval": ("1",)}, "--interval 1 cannot be read: give LO,HI"),
    ({"cfg": 2, "interval": ("nan,1",)}, "--interval nan,1 cannot be read"),
    ({"cfg": 2, "interval": ("a,1",)}, "--interval holds a, which is no number"),
    ({"model": "certain", "cfg": 2}, "certain@10 was trained without label dropout: use --icg"),
    ({"model": "unlabelled", "cfg": 2}, "unlabelled@10 was trained without labels: leave it out"),
    ({"model": "unlabelled", "cfg": 2, "icg": True}, "--icg needs labels.*unlabelled@10"),
    ({"guide": ("large",), "weight": (2,)}, r"large@10 differs.*data.image_size \(16.* is 8\)"),
    ({"guide": ("other",), "weight": (2,)}, r"other@10 differs.*data.num_classes \(7.* is 10\)"),
    ({"model": "unlabelled", "guide": ("main",), "weight": (2,)}, r"data.num_classes \(10"),
    ({"guide": ("classifier",), "weight": (2,)}, "classifier@10 is a classifier: --guide wants"),
    ({"guide": ("unlabelled",), "guide_null": (2,)}, "--guide_null needs.*unlabelled@10"),
    ({"guide": ("certain",), "guide_null": (2,)}, "--guide_null needs.*certain@10"),
    ({"model": "unlabelled", "cads": ".6,.9,.1"}, "--cads anneals the label.*unlabelled@10"),
    ({"classifier": "linear"}, r"linear@10 differs.*diffusion.schedule \(linear"),
    ({"classifier": "main"}, "main@10 is a diffusion model: --classifier wants a classifier"),
    ({"classifier": "classifier", "classifier_scale": math.nan}, "--classifier_scale is nan"),
    ({"cads": ".9,.6,.1"}, "--cads .9,.6,.1 is out of order"),
    ({"cads": ".6,1.1,.1"}, "--cads .6,1.1,.1 is out of order"),
    ({"cads": ".6,.9,-1"}, "--cads .6,.9,-1 is out of range: SCALE"),
    ({"cads": ".6,.9,.1,2"}, "--cads .6,.9,.1,2 is out of range.*PSI"),
    ({"cads": ".6,.9"}, r"--cads .6,.9 cannot be read: give TAU1,TAU2,SCALE\[,PSI\]"),
    ({"apg": "0,-.5,10"}, "--apg has nothing to work on.*add --cfg or --guide"),
    ({"rescale": 0.7}, "--rescale has nothing to work on"),
    ({"rescale": 0.0}, "--rescale has nothing to work on"),
    ({"schedule": ("linear",)}, "--schedule has nothing to work on"),
    ({"interval": (".1,5",)}, "--interval has nothing to gate"),
    ({"classifier": "classifier", "apg": "0,-.5,10"}, "--apg has nothing to work on"),
    ({"cfg": 2, "rescale": 1.5}, "--rescale is 1.5: it must lie between 0 and 1"),
    ({"cfg": 2, "rescale": math.nan}, "--rescale is nan"),
    ({"cfg": 2, "apg": "0,-1,10"}, "--apg 0,-1,10 is out of range.*MOMENTUM"),
    ({"cfg": 2, "apg": "0,-.5,0"}, "--apg 0,-.5,0 is out of range.*NORM"),
    ({"cfg": 2, "apg": "0,-.5"}, "cannot be read: give ETA,MOMENTUM,NORM"),
    ({"cfg": 2, "schedule": ("ramp",)}, "--schedule ramp is unknown.*static, linear, .*dynamic"),
    ({"cfg": 2, "schedule": ("linear,2",)}, "--schedule linear,2 cannot be read: give linear"),
    ({"cfg": 2, "schedule": ("clamp-linear",)}, "give clamp-linear,LEAST"),
    ({"cfg": 2, "schedule": ("clamp-linear,inf",)}, "clamp-linear,inf cannot be met.*finite"),
    ({"cfg": 2, "schedule": ("power-cosine,0",)}, "power-cosine,0 has no shape"),
    ({"cfg": 2, "schedule": ("dynamic,.9,.6",)}, "dynamic,.9,.6 is out of order"),
    ({"cfg": 2, "schedule": ("linear", "sine")}, "--schedule is given 2 times for 1 references"),
    ({"cfg": 2, "interval": (".1,5", ".2,5")}, "--interval is given 2 times for 1 that guide"),
    ({"weight": (2,)}, "--weight is given 1 times and --guide 0 times"),
    ({"guide": ("main",), "weight": (2, 3)}, "--weight is given 2 times and --guide 1 times"),
    ({"guide": ("main",)}, "main has no weight: add --weight"),
    ({"guide_null": (2,)}, "--guide_null is given 1 times and --guide 0 times"),
    ({"icg": True}, "--icg has no weight: add --cfg"),
    ({"cfg": math.nan}, "--cfg is nan: a weight must be a number"),
    ({"guide": ("main",), "weight": (math.inf,)}, "--weight is inf"),
    ({"guide": ("main",), "guide_null": (math.nan,)}, "--guide_null is nan"),
    ({"churn": "40"}, "churn.*no meaning for the sampler ddpm: use heun"),
    ({"sampler": "heun", "churn": "40,-1"}, "churn 40,-1 is out of range"),
    ({"sampler": "heun", "churn": "40,5,1"}, "churn 40,5,1 is out.*MIN not above MAX"),
    ({"sampler": "heun", "churn": "40,0,1,inf"}, "40,0,1,inf is out.*finite"),
    ({"sampler": "heun", "churn": "1,2,3,4,5"}, r"give S\[,MIN\[,MAX\[,NOISE\]\]\]"),
    ({"sigma_min": 0.01}, "--sigma_min has no meaning for the sampler ddpm"),
    ({"sigma_min": 0.0}, "--sigma_min has no meaning for the sampler ddpm"),
    ({"sampler": "ddim", "rho": 3.0}, "--rho has no meaning for the sampler ddim"),
    ({"sampler": "heun", "steps": "ddim25"}, "'ddim25' is no number of steps"),
    ({"model": "eager", "sampler": "heun"}, "'ddim10' is no number of steps"),
    ({"sampler": "heun", "sigma_min": 0.0}, "sigma_min is 0.0"),
    ({"sampler": "dpmpp", "sigma_min": 90.0}, "sigma_min the smaller one"),
    ({"sampler": "heun", "eta": 0.5}, "eta 0.5 has no meaning for the sampler heun"),
    ({"sampler": "heun", "eta": 0.0}, "eta 0.0 has no meaning for the sampler heun"),
    ({"churn": "0"}, "churn 0 has no meaning for the sampler ddpm"),
    ({"classifier_scale": 2.0}, "--classifier_scale 2.0.*add --classifier"),
    ({"classifier_scale": 0.0}, "--classifier_scale 0.0.*add --classifier"),
    ({"together": True}, "--together.*add --cfg or --guide"),
    ({"sampler": "heun", "sigma_max": 1e30}, r"--sigma_max is 1e\+30"),
    ({"sampler": "heun", "sigma_min": 1e-300}, "--sigma_min is 1e-300"),
    ({"sampler": "heun", "rho": 1e-5}, "--rho is 1e-05"),
    ({"sampler": "heun", "rho": math.nan}, "--rho is nan"),
    ({"sampler": "ddim", "eta": math.nan}, "--eta is nan"),
    ({"sampler": "heun", "churn": "40,0,80,1e30"}, r"churn 40,0,80,1e\+30 is out of range"),
    ({"sampler": "heun", "churn": "inf"}, "churn inf is out of range"),
    ({"cfg": 2, "apg": "1e30,-.5,10"}, "--apg 1e30,-.5,10 is out of range: ETA"),
    ({"cads": ".6,.9,1e300"}, "too large for float32"),
    ({"classes": "0-9999999999"}, "no class 9999999999: its classes are 0 to 9"),
    ({"classes": "²"}, "--classes ² cannot be read"),
    ({"classes": "0-²"}, "--classes 0-² cannot be read"),
    ({"classes": "3-"}, "--classes 3- cannot be read"),
    ({"num_samples": 9_999_999_999_999}, "--num_samples 9999999999999"),
    ({"steps": "99999999999"}, "99999999999"),
    ({"steps": "²"}, "²"),
    ({"sampler": "heun", "steps": "99999999999"}, "99999999999"),
    ({"out": "gs://bucket/x"}, "--out is gs://bucket/x"),
    ({"latents": "gs://bucket/x"}, "--latents is gs://bucket/x"),
    ({"low_res": "s3://bucket/x"}, "--low_res is s3://bucket/x"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSALS, ids=[str(f) for f, _ in REFUSALS])
def test_what_has_no_meaning_is_refused(runs, tmp_path, fields, words):
    fields = {"model": "main", **fields}
    for name in ("model", "classifier"):
        if name in fields:
            fields[name] = runs[fields[name]]
    fields["guide"] = tuple(runs[name] for name in fields.get("guide", ()))
    with pytest.raises(UserError, match=words) as caught:
        run_sampling.run(run_sampling.Request(**{"out": str(tmp_path / "out"), **fields}))
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert not (tmp_path / "out").exists()


def test_a_guided_job_records_its_references_and_what_they_cost(runs, tmp_path):
    """The interval of the first reference holds some of the five steps, that of the others all."""
    fields = {
        "model": runs["main"],
        "sampler": "dpmpp",
        "steps": "5",
        "num_samples": 3,
        "guide": (f"{runs['main']}@5", runs["unlabelled"]),
        "weight": (2.0, 1.0),
        "cfg": 1.5,
        "schedule": ("linear", "static", "static"),
        "interval": ("5,inf", "0,inf", "0,inf"),
        "cads": ".6,.9,.1",
        "apg": "0,-.5,10",
        "rescale": 0.7,
    }
    arrays, manifest = sample(tmp_path / "guided", **fields)
    guidance = manifest["guidance"]
    told = [(r["network"], r["told"]) for r in guidance["references"]]
    assert told == [
        ("model", "no label"),
        (f"{runs['main']}@5", "its label"),
        (f"{runs['unlabelled']}@10", "its label"),
    ]
    weights = np.array([r["weights"] for r in guidance["references"]])
    inner = int((weights[0] != 1).sum())
    assert 0 < inner < 5
    np.testing.assert_allclose(weights[0, :inner], 1 + (2 * np.arange(inner) + 1) / 5 / 2)
    np.testing.assert_array_equal(weights[1:], np.array([[2.0], [1.0]]) * np.ones(5))
    assert manifest["network_evaluations_per_sample"] == {
        "model": 5 + inner,
        f"{runs['main']}@5": 5,
    }
    assert (guidance["cads"], guidance["apg"], guidance["rescale"]) == (".6,.9,.1", "0,-.5,10", 0.7)
    assert arrays["arr_0"].std() > 0
    with pytest.raises(UserError, match="another guidance"):
        run_sampling.run(
            run_sampling.Request(out=str(tmp_path / "guided"), **{**fields, "rescale": 0.6})
        )


@pytest.mark.parametrize("text", ["gs://b/run", "gs://b/run@5", "s3://b/run:ema=.1", "gs:/b/run"])
def test_networks_on_other_storage_are_refused(runs, tmp_path, text):
    for fields in (
        {"model": text},
        {"model": runs["main"], "guide": (text,), "weight": (2.0,)},
        {"model": runs["main"], "classifier": text},
    ):
        with pytest.raises(UserError, match="cannot be read or written yet"):
            run_sampling.run(run_sampling.Request(out=str(tmp_path / "out"), **fields))


def test_a_file_of_tensors_is_no_run(tmp_path):
    with pytest.raises(UserError, match="jaxdiff.interop.openai import 64x64.pt"):
        run_sampling.run(run_sampling.Request(model="64x64.pt", out=str(tmp_path / "out")))


def test_an_interval_between_two_steps_is_said_to_guide_nowhere(runs):
    fields = {"model": runs["main"], "out": "", "sampler": "dpmpp", "steps": "3"}
    levels = run_sampling.prepare(run_sampling.Request(**fields)).grid.levels.ratio
    low, high = float(levels[1]) * 1.01, float(levels[0]) * 0.99
    between, around = f"{low:.6g},{high:.6g}", f"{low:.6g},{high * 1.1:.6g}"
    classifier = {"classifier": runs["classifier"]}

    def notes(**more):
        prepared = run_sampling.prepare(run_sampling.Request(**fields, **more))
        assert list(prepared.method.notes) == prepared.settings["notes"]
        return prepared.method.notes

    for guidance in ({"cfg": 2.0}, classifier):
        (note,) = notes(**guidance, interval=(between,))
        for part in (between, f"{levels[0]:.4g}", f"{levels[1]:.4g}"):
            assert part in note
        assert not notes(**guidance, interval=(around,))
        assert not notes(**guidance)
    assert len(notes(cfg=2.0, **classifier, interval=(between, around))) == 1
    assert not notes(cfg=1.0, interval=(between,)), "what is off cannot be missed"


def test_weight_1_is_no_guidance(runs, tmp_path):
    fields = {"model": runs["main"], "num_samples": 3, "sampler": "ddim"}
    plain, manifest = sample(tmp_path / "plain", **fields)
    guides = {"guide": (runs["unlabelled"],), "weight": (1.0,), "cfg": 1.0}
    off, same = sample(tmp_path / "off", **guides, **fields)
    np.testing.assert_array_equal(off["arr_0"], plain["arr_0"])
    counts = "network_evaluations_per_sample"
    assert manifest[counts] == same[counts] == {"model": 4}
    # A separate network without labels is a reference like the null label.
    on, manifest = sample(tmp_path / "on", **{**guides, "weight": (3.0,)}, **fields)
    assert manifest[counts] == {"model": 4, f"{runs['unlabelled']}@10": 4}
    assert (on["arr_0"] != plain["arr_0"]).any()


def command(*arguments):
    return subprocess.run(
        [sys.executable, "sample.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_command_line_takes_all_of_it(runs, tmp_path):
    result = command(
        *("--model", runs["main"], "--out", tmp_path / "out", "--num_samples", 2),
        *("--cfg", 2, "--interval", ".1,5", "--schedule", "linear", "--cads", ".6,.9,.1"),
        *("--apg", "0,-.5,10", "--rescale", ".7", "--sampler", "heun", "--steps", 4),
    )
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (reference,) = manifest["guidance"]["references"]
    on = np.flatnonzero(np.array(reference["weights"]) != 1)
    assert 0 < len(on) < 4
    spent = 2 * len(on) - (3 in on)
    assert manifest["network_evaluations_per_sample"] == {"model": 7 + spent}
    assert f"evaluations for each sample: {7 + spent} of model" in result.stdout
    assert (tmp_path / "out" / "samples_2x8x8x1.npz").exists()


def test_the_command_line_refuses_in_a_sentence(runs, tmp_path):
    own = ["--model", runs["main"], "--out", tmp_path / "out"]
    lines = {
        ("--apg", "0,-.5,10"): "--apg has nothing to work on",
        ("--weight", "2"): "--weight is given 1 times and --guide 0 times",
        ("--cfg", "2", "--interval", "5,.1"): "--interval 5,.1 is empty",
    }
    check("sample.py", "sample.py", [([*own, *line], words) for line, words in lines.items()])
    assert not (tmp_path / "out").exists()
