import dataclasses
import time
import types

import jax
import numpy as np
import pytest

from jaxdiff.config import TrainingConfig, replaced
from jaxdiff.training import metrics
from jaxdiff.training.compiled import step_flops
from jaxdiff.training.metrics import AHEAD, Constants, Metrics, Pace, Timed
from jaxdiff.training.step import zero_sums
from tests.training import linear


@dataclasses.dataclass
class Result:
    """What a step gives, once somebody waits for it."""

    number: int
    waited_for: list

    def block_until_ready(self):
        self.waited_for.append(self.number)
        return self


def test_the_host_is_never_further_ahead_than_it_says():
    pace, waited_for = Pace(), []
    for number in range(10):
        pace({"loss": Result(number, waited_for)})
        assert number - (waited_for or [-1])[-1] <= AHEAD
    assert waited_for == list(range(10 - AHEAD)), "each is waited for once, none too early"


class Lines(dict):
    """A Writer and a progress bar that keep what they get."""

    def write_metrics(self, step, scalars):
        self[step] = scalars

    def set_postfix_str(self, text, refresh):
        self.text = text


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now.seconds)
    return now


TRAINING = TrainingConfig(batch_size=32, learning_rate=0.5, warmup_steps=50, log_every=10)


def sums(loss, count=10, non_finite=0):
    zeros = jax.tree.map(np.asarray, zero_sums(("loss",)))
    loss, counted = np.array([loss * count, count]), np.array([non_finite, 1])
    return {**zeros, "loss": loss, "non_finite_steps": counted, "non_finite_in_row": counted}


def test_rates_are_those_of_the_interval(clock, one_device, monkeypatch):
    """A slow source: 5 of 8 seconds; 10 steps of 32 images, of 400 FLOPs at a peak of 2,000."""

    def slow():
        for _ in range(100):
            clock.seconds += 0.5
            yield {}

    memory = [{"peak_bytes_in_use": 3 * 2**29}, {"peak_bytes_in_use": 2**30}]
    devices = [types.SimpleNamespace(memory_stats=lambda m=m: m) for m in memory]
    monkeypatch.setattr(metrics.jax, "local_devices", lambda: devices)
    lines, data = Lines(), Timed(slow())
    clock.seconds = 7.0
    constants = Constants(TRAINING, examples=1000, flops=400.0, peak=2000.0)
    first = data.peek()  # of no interval: the program was compiled meanwhile
    report = Metrics(lines, lines, constants, data, one_device, number=20)
    begun = clock.seconds
    assert next(data) is first
    for _ in range(10):
        next(data)
    clock.seconds = begun + 8.0
    report.push(30, sums(0.25))
    assert lines == {}, "nothing is waited for before the next interval"
    clock.seconds += 4.0
    report.push(40, sums(0.5, non_finite=3))
    report.finish()
    assert lines[30] == {
        "loss": 0.25,
        "non_finite_steps": 0,
        "learning_rate": pytest.approx(0.5 * 29 / 50),  # of the step after 29
        "images": 960,
        "epochs": 0.96,
        "images_per_second": 40.0,
        "mfu": pytest.approx(10 * 400 / (8 * 2000)),
        "waiting_for_data": 5 / 8,
        "device_memory_gib": 1.5,
    }
    assert lines[40]["images_per_second"] == 80.0
    assert lines[40]["mfu"] == pytest.approx(0.5)
    assert lines[40]["waiting_for_data"] == 0.0
    assert lines[40]["non_finite_steps"] == 3
    assert lines[40]["learning_rate"] == pytest.approx(0.5 * 39 / 50)
    assert "waiting 0%" in lines.text
    assert "MFU 50%" in lines.text
    assert report.overall(40) == (20, 12.0, pytest.approx(5 / 12))


def test_what_is_not_known_is_left_out(one_device):
    lines = Lines()
    report = Metrics(lines, lines, Constants(TRAINING, 1000), Timed(iter(())), one_device, 0)
    report.push(10, sums(1.0))
    report.finish()
    assert {"mfu", "device_memory_gib"}.isdisjoint(lines[10])
    assert {*lines[10]} <= {*metrics.columns(("loss",))}


def test_a_slow_source_is_waited_for():
    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield {}

    data = Timed(slow())
    for _ in range(3):
        next(data)
    assert data.seconds >= 3 * 0.02


def test_the_largest_of_all_processes_is_reported(monkeypatch):
    """As if these devices were those of several processes: each contributes its numbers."""
    from jaxdiff.parallel.mesh import make_mesh

    mesh = make_mesh(2)
    monkeypatch.setattr(metrics.processes, "count", lambda: 2)
    largest = metrics._largest(mesh, (0.25, 3.5))
    np.testing.assert_array_equal(jax.device_get(largest), [0.25, 3.5])


def test_operations_of_a_step_are_those_of_its_mathematics():
    """Of two layers and that of the time, forward, and of the gradients of all but x and time."""
    config = linear.config()
    example = linear.Stripes().open("train", config.model.conditions).fetch(np.arange(1))
    images, width, pixels = 16, 1024, 16
    results = 2 * pixels  # with the learned variance
    products = 2 * (pixels + 1 + results) + results
    assert step_flops(config, example) == 2 * images * width * products
    for name, value in (("remat", True), ("accumulate", 2), ("dtype", "bfloat16")):
        other = replaced(config, {f"training.{name}": value})
        assert step_flops(other, example) == 2 * images * width * products
