"""Guided requests: what they cost and record, and what is refused in a sentence."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.config import (
    ADM,
    APG,
    CADS,
    CFG,
    DDIM,
    ICG,
    Autoguidance,
    ClassifierGuidance,
    DPMpp,
    Image,
    Label,
    Schedule,
    Vector,
    replaced,
)
from jaxdiff.errors import UserError
from jaxdiff.sampling.trained_model import load
from tests import tiny
from tests.runs import classifier, make_run, random_params, sample, unlabelled

pytestmark = pytest.mark.usefixtures("alone")


def conditioned(*conditions):
    return tiny.config(model__conditions=conditions)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Trained models by name; "main" has an older step, too."""
    folder, linear = tmp_path_factory.mktemp("runs"), ADM(schedule="linear", num_timesteps=30)
    configs = {
        "main": tiny.config(),
        "certain": tiny.config(diffusion__condition_dropout=0.0),
        "unlabelled": unlabelled(),
        "large": tiny.config(data__image_size=16),
        "other": conditioned(Label(7)),
        "vector": conditioned(Vector(3)),
        "several": conditioned(Label(10), Vector(3), Image(2)),
        "classifier": classifier(),
        "linear": classifier(diffusion=linear),
        "small": classifier(data__image_size=16, attention_resolutions=(16,)),
    }
    steps = {name: (5, 10) if name == "main" else (10,) for name in configs}
    return {n: load(make_run(folder / n, c, steps=steps[n])) for n, c in configs.items()}


REFUSALS = [
    ("certain", [CFG(2)], {}, "certain@10"),
    ("unlabelled", [CFG(2)], {}, "unlabelled@10"),
    ("unlabelled", [ICG(2)], {}, "unlabelled@10"),
    ("vector", [ICG(2)], {"cond": {"vector": [0, 0, 0]}}, "vector"),
    ("main", [("guide", "large", 2)], {}, "shape.*16"),
    ("main", [("guide", "other", 2)], {}, "conditions.*7"),
    ("unlabelled", [("guide", "main", 2)], {}, "conditions.*10"),
    ("main", [("guide", "classifier", 2)], {}, "classifier@10 is a classifier"),
    ("main", [("guide", "unlabelled", 2, True)], {}, "unlabelled@10"),
    ("main", [("guide", "certain", 2, True)], {}, "certain@10"),
    ("main", [("classifier", "linear")], {}, "diffusion.schedule"),
    ("main", [("classifier", "small")], {}, "shape"),
    ("main", [("classifier", "main")], {}, "main@10 is no classifier"),
    ("main", [("classifier", "classifier"), ("classifier", "classifier")], {}, "twice"),
    ("main", ["CFG"], {}, "guidance is .*CFG"),
    ("main", [], {"combiner": APG()}, "APG"),
    ("main", [("classifier", "classifier")], {"combiner": APG()}, "APG"),
    ("main", [], {"rescale": 0.5}, "rescale"),
    ("main", [CFG(2)], {"rescale": 1.5}, "rescale is 1.5"),
    ("main", [CFG(2)], {"rescale": float("nan")}, "rescale is nan"),
    ("main", [], {"sampler": "heun"}, "sampler is heun"),
    ("main", [], {"seed": -1}, "seed is -1"),
    ("main", [], {"seed": 2**31}, "seed is 2147483648"),
    ("main", [], {"batch_size": 0}, "batch_size is 0"),
    ("main", [], {"sampler": DDIM(steps=21)}, "20"),
    ("main", [], {"sampler": DDIM(steps="ddim19")}, "ddim19"),
    ("unlabelled", [], {"cads": CADS(0.6, 0.9, 0.1)}, "unlabelled@10"),
]


def spec_of(given, runs):
    if not isinstance(given, tuple):
        return given
    kind, name, *values = given
    return {"guide": Autoguidance, "classifier": ClassifierGuidance}[kind](runs[name], *values)


@pytest.mark.parametrize(("model", "guidance", "request_", "words"), REFUSALS)
def test_what_cannot_be_guided_so_is_refused(runs, model, guidance, request_, words):
    with pytest.raises(UserError, match=words) as caught:
        runs[model].job(4, guidance=[spec_of(each, runs) for each in guidance], **request_)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text


def test_other_classes_are_refused_by_name(runs):
    numbers = tuple(map(str, range(10)))
    birds = ("crane", *numbers[1:])
    model, guide = (dataclasses.replace(runs["main"], class_names=c) for c in (birds, numbers))
    model.job(4, guidance=Autoguidance(guide, 2))  # the guide's classes have numbers alone
    guide = dataclasses.replace(guide, class_names=("crane", "drake", *numbers[2:]))
    judge = dataclasses.replace(runs["classifier"], class_names=guide.class_names)
    for spec in (Autoguidance(guide, 2), ClassifierGuidance(judge)):
        with pytest.raises(UserError, match="class 1 is drake, and the model's is 1"):
            model.job(4, guidance=spec)


def test_a_guided_job_records_its_references_and_what_they_cost(runs, tmp_path):
    """The interval of the first reference holds some of the five steps, that of the others all."""
    model, older = runs["main"], load(runs["main"].reference.run.folder, step=5)
    request = {
        "sampler": DPMpp(steps=5),
        "guidance": [
            CFG(1.5, schedule=Schedule("linear"), interval=(5, np.inf)),
            Autoguidance(older, 2.0),
            Autoguidance(runs["unlabelled"], 1.0),
        ],
        "cads": CADS(0.6, 0.9, 0.1),
        "combiner": APG(0, -0.5, 10),
        "rescale": 0.7,
    }
    arrays, manifest = sample(tmp_path / "guided", model, 3, **request)
    weights = np.array(manifest["weights"])
    inner = int((weights[0] != 1).sum())
    assert 0 < inner < 5
    np.testing.assert_allclose(weights[0, :inner], 1 + (2 * np.arange(inner) + 1) / 5 / 2)
    np.testing.assert_array_equal(weights[1:], np.array([[2.0], [1.0]]) * np.ones(5))
    assert manifest["network_evaluations_per_sample"] == {"model": 5 + inner, str(older): 5}
    assert [each["kind"] for each in manifest["guidance"]] == [
        "cfg",
        "autoguidance",
        "autoguidance",
    ]
    assert manifest["guidance"][1]["guide"] == str(older)
    assert manifest["cads"] == {"kind": "cads", "tau1": 0.6, "tau2": 0.9, "scale": 0.1, "mix": 1.0}
    assert set(manifest["networks"]) == {str(model), str(older), str(runs["unlabelled"])}
    assert arrays["arr_0"].std() > 0
    with pytest.raises(UserError, match="rescale"):
        sample(tmp_path / "guided", model, 3, **{**request, "rescale": 0.6})


def test_an_interval_between_two_steps_is_said_to_guide_nowhere(runs):
    model, sampler = runs["main"], DPMpp(steps=3)
    levels = model.process.path(sampler)[0].ratio
    low, high = float(levels[1]) * 1.01, float(levels[0]) * 0.99
    around = (low, high * 1.1)

    def notes(*guidance):
        job = model.job(4, sampler=sampler, guidance=guidance)
        assert list(job.method.notes) == job.settings["notes"]
        return job.method.notes

    for spec in (CFG(2.0), ClassifierGuidance(runs["classifier"])):
        (note,) = notes(dataclasses.replace(spec, interval=(low, high)))
        for level in (low, high):
            assert f"{level:g}" in note
        for level in levels[:2]:
            assert f"{level:.4g}" in note
        assert not notes(dataclasses.replace(spec, interval=around))
        assert not notes(spec)
    assert not notes(CFG(1.0, interval=(low, high))), "what is off cannot be missed"


def test_weight_1_is_no_guidance(runs):
    model, request = runs["main"], {"sampler": DDIM(steps=4)}
    plain = model.sample(3, **request)
    off = [CFG(1.0), Autoguidance(runs["unlabelled"], 1.0)]
    same = model.sample(3, guidance=off, **request)
    np.testing.assert_array_equal(same.x, plain.x)
    counts = "network_evaluations_per_sample"
    assert plain.settings[counts] == same.settings[counts] == {"model": 4}
    # A separate network without conditions is a reference like the null condition.
    on = model.sample(3, guidance=[Autoguidance(runs["unlabelled"], 3.0)], **request)
    assert on.settings[counts] == {"model": 4, str(runs["unlabelled"]): 4}
    assert (on.x != plain.x).any()


def test_a_classifier_guides_and_scale_zero_does_not(runs):
    common = {"cond": {"label": 3}, "sampler": DDIM(steps=4)}
    plain = runs["main"].sample(4, **common)
    off = runs["main"].sample(4, guidance=ClassifierGuidance(runs["classifier"], 0), **common)
    np.testing.assert_array_equal(off.x, plain.x)
    assert off.settings["network_evaluations_per_sample"] == {"model": 4}
    on = runs["unlabelled"].sample(
        4, guidance=ClassifierGuidance(runs["classifier"], 1e4), **common
    )
    other = runs["unlabelled"].sample(4, sampler=common["sampler"])
    assert (on.images != other.images).any()
    np.testing.assert_array_equal(on.cond["label"], 3)
    assert on.settings["classifier_scales"] == [1e4] * 4
    assert on.settings["network_evaluations_per_sample"] == {"model": 4, "classifier": 4}


def test_several_conditions_at_once_are_guided_and_annealed(runs):
    """Each matters; CFG's reference has none of them; each is annealed with its own noise."""
    model, random = runs["several"], np.random.RandomState(0)
    cond = {
        "label": [1, 2, 3],
        "vector": random.randn(3, 3),
        "image": random.randint(0, 256, (3, 4, 4, 2)).astype(np.uint8),
    }
    request = {"sampler": DDIM(steps=2), "guidance": [CFG(2.0)]}
    base = model.sample(3, cond=cond, **request)
    for name in cond:
        changed = model.sample(3, cond={**cond, name: cond[name][::-1]}, **request)
        assert (np.abs(changed.x - base.x).reshape(3, -1).max(1) > 0)[[0, 2]].all()
    moved = model.sample(3, cond=cond, cads=CADS(0.0, 0.0, 0.5), **request)
    assert (moved.x != base.x).any()
    # The reference does not depend on any condition: at weight 0 it is all there is.
    alone = model.sample(3, cond=cond, sampler=DDIM(steps=2), guidance=[CFG(0.0)])
    other = {"label": 5, "vector": [1, 1, 1], "image": np.zeros((4, 4, 2))}
    same = model.sample(3, cond=other, sampler=DDIM(steps=2), guidance=[CFG(0.0)])
    np.testing.assert_allclose(alone.x, same.x, atol=1e-5)


def test_conditions_that_do_not_fit_are_refused(runs):
    good = {"vector": [0, 0, 0], "image": np.zeros((4, 4, 2))}
    for given, words in (
        ({"vector": [0, 0, 0]}, "conditioned on image"),
        ({**good, "vectr": 1}, "vectr.*did you mean vector"),
        ({**good, "label": 10}, "label has 10"),
        ({**good, "label": 1.5}, "label"),
        ({**good, "label": []}, "label"),
        ({**good, "label": [[1], [2, 3]]}, "label is no array"),
        (3, "cond is 3"),
        ({**good, "vector": [0, 0]}, r"vector has the shape \(2,\)"),
        ({**good, "vector": [0, 0, np.nan]}, "vector"),
        ({**good, "image": np.zeros((4, 4, 1))}, "image"),
    ):
        with pytest.raises(UserError, match=words):
            runs["several"].job(4, cond=given)
    np.testing.assert_array_equal(
        runs["several"].job(12, cond=good).cond["label"], [*range(10), 0, 1]
    )
    longer = runs["several"].job(2, cond={**good, "label": [1, 2, 3]})
    assert longer.cond["label"].tolist() == [1, 2]
    without = dataclasses.replace(runs["several"], empty=(0, 4))
    assert without.job(3, cond=good).cond["label"].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="unlabelled@10 has no condition label"):
        runs["unlabelled"].job(4, cond={"label": 1})
    with pytest.raises(UserError, match="is a classifier"):
        runs["classifier"].job(4)
    with pytest.raises(UserError, match="is a classifier"):
        runs["classifier"].denoise(np.zeros((1, 8, 8, 1)), 1.0)


def test_parameters_of_ones_own_are_sampled(runs):
    model = runs["main"]
    own = dataclasses.replace(
        model, parameters=random_params(model.network, seed=10), reference=None
    )
    request = {"sampler": DDIM(steps=4), "cond": {"label": 3}}
    np.testing.assert_array_equal(own.sample(2, **request).x, model.sample(2, **request).x)
    config = replaced(model.config, {"sampling": DDIM(steps=4)})
    others = dataclasses.replace(own, parameters=random_params(model.network, seed=11))
    networks = [each.job(2).settings["networks"] for each in (own, own, others)]
    assert networks[0] == networks[1] != networks[2]
    default = dataclasses.replace(own, config=config).sample(2, cond={"label": 3})
    np.testing.assert_array_equal(default.x, model.sample(2, **request).x)
