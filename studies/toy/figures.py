"""Pictures of the toy of autoguidance (Karras et al. 2024, arXiv:2406.02507, Figures 1 and 2)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import files
from studies.toy import data
from studies.toy.process import log_density
from studies.toy.score import truth

VIEW = (-0.7, 1.6, -0.8, 1.7)  # x and y of class A, with room for outliers
PIXELS = 160
MIDDLE = 0.05  # sigma at which the densities of networks are drawn


def overview(runs, path, count=4000, paths=16):
    """Points of four samplings, densities of main and guide and their ratio, and trajectories."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.8), layout="constrained")
    panels = figure.subplots(2, 4)
    samplings = {
        "truth": truth(runs.seed, count),
        "no guidance": runs.points(count),
        "autoguidance, w 3": runs.points(count, guide=3.0),
        "CFG, w 4": runs.points(count, cfg=4.0),
    }
    for axes, (name, points) in zip(panels[0], samplings.items(), strict=True):
        _contours(axes)
        axes.plot(*points.T, ",", color="C1", alpha=0.8)
        axes.set_title(name)
    grid, shape = _grid()
    main, guide = (
        _log_density(runs.load(each), grid).reshape(shape) for each in (runs.model, runs.guide)
    )
    pictures = {
        f"density of main, sigma {MIDDLE}": np.exp(main - main.max()),
        "density of the guide": np.exp(guide - guide.max()),
        "log of their ratio": main - guide - (main - guide)[main > main.max() - 6].mean(),
    }
    for axes, (name, values) in zip(panels[1], pictures.items(), strict=False):
        is_ratio = name == "log of their ratio"
        limits = {"vmin": -4, "vmax": 4, "cmap": "RdBu_r"} if is_ratio else {"cmap": "Blues"}
        axes.imshow(values, origin="lower", extent=VIEW, aspect="auto", **limits)
        axes.set_title(name)
    for color, weight in (("C7", 1.0), ("C1", 3.0)):
        path_of = runs.trajectories(paths, weight)
        panels[1, 3].plot(path_of[..., 0], path_of[..., 1], color=color, lw=0.7)
    _contours(panels[1, 3])
    panels[1, 3].set_title("paths: alone (grey), guided (orange)")
    for axes in panels.flat:
        axes.set(xlim=VIEW[:2], ylim=VIEW[2:], xticks=[], yticks=[])
    with files.replacing(path) as file:
        figure.savefig(file, dpi=110)


def frontier(curves, path, truncation=None):
    """Outliers against lost coverage: a curve for each method, a point for each weight or factor.

    Args:
      curves: {method: [(weight, Score), ...]}.
      path: of the picture.
      truncation: name of a method to draw dashed, as it is no guidance.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        style = "--" if name == truncation else "-"
        tv, outliers = ([getattr(s, field) for _, s in points] for field in ("tv", "outliers"))
        marker = "os^vDPX*"[number // 10 % 8]
        axes.plot(tv, 100 * np.array(outliers), style + marker, ms=3.5, lw=1, label=name)
        for (weight, _), x, y in zip(points, tv, outliers, strict=True):
            axes.annotate(f"{weight:g}", (x, 100 * y), fontsize=6)
    axes.set(xlabel="total variation distance of the branches' shares", ylabel="outliers, %")
    axes.set(ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120)


def _grid():
    """Points of a picture, [PIXELS^2, 2], lowest row first, and the picture's shape."""
    x, y = np.linspace(*VIEW[:2], PIXELS), np.linspace(*VIEW[2:], PIXELS)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return jnp.asarray(points, jnp.float32), (PIXELS, PIXELS)


def _contours(axes):
    """Where the truth, hardly blurred, is."""
    grid, shape = _grid()
    values = jax.jit(lambda x: data.distribution("A").log_density(x, 0.01))(grid)
    values = np.asarray(values).reshape(shape)
    axes.contourf(values, [-2, 10], origin="lower", extent=VIEW, colors=["0.85"])


def _log_density(model, points):
    """The log density of a trained model at MIDDLE, up to a constant: [N]."""
    network = partial(model.network.apply, model.params)
    sigma = jnp.full((len(points), 1), MIDDLE)
    time = jnp.log(sigma[:, 0]) / 4

    @jax.jit
    def run(x):
        data_std = model.config.diffusion.data_std
        return log_density(lambda x: network(x, time), x, sigma, data_std)

    return np.asarray(run(points))
