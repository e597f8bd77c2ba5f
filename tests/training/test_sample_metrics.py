"""Samples measured while a network trains, by the features of a classifier of the digits."""

import csv
import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath

import jaxdiff
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import CFG, EDM, Autoguidance, DPMpp, EvaluationConfig, Label
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.extractors import open_extractor
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.training import loop
from jaxdiff.training.held_out import HeldOut
from jaxdiff.training.interrupt import Interrupt, Left
from jaxdiff.training.periodic_eval import Evaluation
from jaxdiff.training.restart import set_history_aside
from jaxdiff.training.sample_metrics import SampleMetrics
from jaxdiff.training.task import Task
from tests import runs, tiny
from tests.training import events, linear

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def features(alone, tmp_path_factory):
    def larger(params):
        return jax.tree.map(lambda x: 4 * x, params)

    folder = tmp_path_factory.mktemp("runs") / "classifier"
    return runs.make_run(folder, runs.classifier("adaptive"), change=larger)


def config(features, evaluation=(), **overrides):
    section = EvaluationConfig(
        metrics=("fd", "recall"),
        num_samples=30,
        sampler=DPMpp(steps=2),
        guidance=(CFG(1.5),),
        features=features,
        batch_size=16,
    )
    return tiny.config(
        model=linear.LinearConfig(width=32, conditions=(Label(10),)),
        diffusion=EDM(data_std=0.5, condition_dropout=0.2),
        sampling=DPMpp(steps=3),
        evaluation=dataclasses.replace(section, **dict(evaluation)),
        **{"training__evaluate_every": 2, "training__num_steps": 2, **overrides},
    )


def rows(run):
    return list(csv.DictReader(run.evaluation.read_text().splitlines()))


def test_the_ema_is_sampled_and_measured_and_so_it_is_in_a_continued_run(
    features, tmp_path, capsys
):
    run = Run(epath.Path(tmp_path) / "run")
    loop.train(config(features), run.folder)
    (row,) = rows(run)
    assert [row[name] for name in ("step", "samples", "features")] == ["2", "30", f"{features}@10"]
    assert row["reference"] == "studies.digits.data:prepare:train"

    model, extractor = jaxdiff.load(run.folder), open_extractor(features)
    samples = model.sample(30, model.config.seed, sampler=DPMpp(steps=2), guidance=[CFG(1.5)])
    real = open_split(model.config.data, "train", ()).all()["x"]
    expected = distance(*(Moments.of(extractor(x)["features"]) for x in (real, samples.images)))
    assert float(row["fd"]) == pytest.approx(expected, rel=1e-3)

    test = open_split(model.config.data, "test", model.config.model.conditions)
    held_out = HeldOut(Task.of(model.config), test, make_mesh()).measure(model.params)
    assert {f"held_out_{name}" for name in held_out} <= set(row)
    assert float(row["held_out_loss_q3"]) == pytest.approx(held_out["loss_q3"], rel=1e-5)
    printed = capsys.readouterr().out
    assert f"step 2: fd {float(row['fd']):.4g}, recall " in printed
    assert "step 2, held out: loss " in printed

    other = config(features, {"metrics": ("fd", "precision"), "num_samples": 15})
    loop.train(jaxdiff.config.replaced(other, {"training.num_steps": 4}), run.folder)
    first, second = rows(run)
    assert {name: first[name] for name in row} == row
    assert (second["step"], second["samples"], second["recall"]) == ("4", "15", "")
    assert 0 <= float(second["precision"]) <= 1
    scalars = events.read(run.tensorboard)
    assert scalars["evaluation/fd"] == pytest.approx({2: float(row["fd"]), 4: float(second["fd"])})
    assert list(scalars["evaluation/recall"]) == [2]
    assert list(scalars["held_out/loss_q0"]) == [2, 4]
    set_history_aside(run)
    assert len(rows(Run(run.folder / "before-restart-1"))) == 2
    assert not run.evaluation.exists()


def test_what_fails_costs_no_steps(features, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("The memory does not suffice.")

    monkeypatch.setattr(SampleMetrics, "_sample", fail)
    with pytest.raises(UserError, match="memory"):
        loop.train(config(features, training__num_steps=3), tmp_path)
    run = Run(epath.Path(tmp_path))
    assert checkpointer.complete_steps(run.checkpoints) == [2]
    assert not run.evaluation.exists()


class Lines:
    """A writer that keeps what is said and written."""

    def __init__(self):
        self.said, self.scalars = [], {}

    def say(self, text):
        self.said.append(text)

    def write_scalars(self, step, scalars):
        del step
        self.scalars |= scalars


def test_samples_that_are_not_finite_are_the_worst_and_a_signal_ends_a_measurement(
    features, tmp_path
):
    task, interrupt, writer = Task.of(config(features)), Interrupt(), Lines()
    source, run = open_split(task.config.data, "train", (Label(10),)), Run(epath.Path(tmp_path))
    measure = SampleMetrics(task, run, source, make_mesh(), interrupt)
    params = runs.random_params(task.network)
    params["last"]["bias"] = params["last"]["bias"] * np.nan
    row = measure(run, writer, 7, params)
    assert (row["fd"], row["recall"]) == (np.inf, -np.inf)
    assert writer.scalars == {}
    assert "step 7: 30 of 30 samples are not finite" in writer.said[0]
    interrupt.number = 15
    held_out = mock.Mock()
    with pytest.raises(Left):
        Evaluation(measure, held_out)(run, writer, 7, params)
    assert not held_out.called
    assert not run.evaluation.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"metrics": ("fd", "kid")}, "kid cannot be measured, as its subsets of 1000"),
        ({"metrics": ("fid",)}, "fid cannot be measured"),
        ({"num_samples": 3}, "recall cannot be measured"),
        ({"reference": "nowhere"}, "no split nowhere"),
        ({"features": "inception", "weights": ""}, "inception-2015"),
        ({"features": "efficientnet"}, "efficientnet-lite0"),
        ({"guidance": (Autoguidance("nowhere/guide", 2),)}, "guide"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(features, tmp_path, changed, words):
    if "weights" in changed:
        changed = {**changed, "weights": str(tmp_path)}
    with pytest.raises(UserError, match=words):
        loop.train(config(features, changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_guidance_that_the_network_was_not_trained_for_is_refused(features, tmp_path):
    without = jaxdiff.config.replaced(config(features), {"diffusion.condition_dropout": 0.0})
    with pytest.raises(UserError, match="CFG needs a network that was trained with"):
        loop.train(without, tmp_path / "run")


def test_settings_that_contradict_each_other_are_refused(features):
    for fields, words in [
        ({"metrics": ()}, "evaluation.metrics is empty"),
        ({"metrics": ("fd", "fd")}, "each metric once"),
        ({"metrics": ("fdd",)}, "evaluation.metrics"),
        ({"num_samples": 1}, "evaluation.num_samples"),
        ({"guidance": (Autoguidance(object(), 2),)}, "names alone"),
    ]:
        with pytest.raises(UserError, match=words):
            EvaluationConfig(**fields)
    with pytest.raises(UserError, match="a classifier makes no samples"):
        runs.classifier(training__evaluate_every=5)
    text = jaxdiff.config.to_dict(config(features))
    assert jaxdiff.config.from_dict(text) == config(features)
