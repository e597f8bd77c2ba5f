import jax
import numpy as np
import pytest
import scipy.stats

from jaxdiff.config import EDM
from jaxdiff.data.source import from_arrays
from jaxdiff.training.held_out import HeldOut
from jaxdiff.training.task import Task
from tests.runs import random_params
from tests.training import linear

pytestmark = pytest.mark.usefixtures("alone")

PROCESS = EDM(data_std=0.5, p_mean=-0.4, p_std=1.0, condition_dropout=0.5)


def test_the_loss_is_karras_et_al_s_by_quarter_of_the_noise_levels(one_device):
    """Equation (8), in NumPy but for the network."""
    model = linear.LinearConfig(width=8, dropout=0.5)
    task = Task.of(linear.config(diffusion=PROCESS, model=model))
    params = random_params(task.network)
    images = linear.Stripes().open("test", True).fetch(np.arange(70))
    held_out = HeldOut(task, from_arrays(images["x"], images["cond"]), one_device)
    found = held_out.measure(params, repeats=2, seed=3)

    x0, d, losses, sigmas = np.float64(images["x"]) / 127.5 - 1, 0.5, [], []
    cond = task.network.embed(params, {"label": np.resize(images["cond"]["label"], 256)})
    for repeat in range(2):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), repeat), 0)
        draws = task.process.draw(key, (256, 4, 4, 1))
        sigma = np.float64(draws["sigma"])[:, None, None, None]
        x = np.resize(x0, (256, 4, 4, 1)) + sigma * draws["noise"]
        total = sigma**2 + d**2
        inner = task.network.apply(
            params, np.float32(x / np.sqrt(total)), 250 * np.log(draws["sigma"]), cond
        )
        denoised = d**2 / total * x + sigma * d / np.sqrt(total) * inner
        error = (denoised - np.resize(x0, x.shape)) ** 2
        losses.append((total / (sigma * d) ** 2 * error).mean((1, 2, 3))[:70])
        sigmas.append(sigma.ravel()[:70])
    losses, sigmas = np.concatenate(losses), np.concatenate(sigmas)
    bounds = np.exp(scipy.stats.norm.ppf([0.25, 0.5, 0.75], -0.4, 1.0))
    quarter = np.searchsorted(bounds, sigmas)
    expected = {"loss": losses.mean()}
    expected |= {f"loss_q{q}": losses[quarter == q].mean() for q in range(4)}
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == held_out.measure(params, repeats=2, seed=3)
    assert found != held_out.measure(params, repeats=2)
