"""The two-dimensional toy of autoguidance: Karras et al. 2024 (arXiv:2406.02507), appendix C.

Each of two classes is a binary tree of 127 branches, which become thinner and shorter with their
distance from the root, and each branch is 8 Gaussians in a row.
"""

import dataclasses
from functools import cache

import numpy as np

from jaxdiff.data.source import from_arrays
from jaxdiff.errors import UserError
from studies.toy.mixture import GaussianMixture

DEPTH = 7
COMPONENTS = 8  # of a branch
ORIGIN = np.array([0.0030, 0.0325])
SCALE = np.array([1.3136, 1.3844])
CLASSES = {"A": np.pi / 4, "B": np.pi * 5 / 4}  # the direction that a class's tree grows in
SPLITS = {"train": (2**20, 0), "test": (2**13, 1)}  # how many points, and the seed of their draw


@dataclasses.dataclass(frozen=True)
class Branch:
    """A branch's components: weights [8] before normalisation, means [8, 2], covariances."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def _tree(random, depth, position, angle):
    """The branches of a tree, depth first, whose first one begins at `position`."""
    length = 0.292 * 0.8**depth * (random.randn() * 0.2 + 1)
    thickness = 0.2 * 0.8**depth / length
    size = SCALE * length * 0.06
    direction = np.array([np.cos(angle), np.sin(angle)])
    along = np.outer(direction, direction)
    covariance = (along + (np.eye(2) - along) * thickness**2) * np.outer(size, size)
    places = np.linspace(0.07, 0.93, COMPONENTS)[:, None]
    branches = [
        Branch(
            np.full(COMPONENTS, length * 0.5**depth),
            (position + direction * length * places) * SCALE,
            np.tile(covariance, (COMPONENTS, 1, 1)),
        )
    ]
    for sign in (1, -1):
        # Drawn at the leaves as well, where no child follows: the order of draws is the
        # distribution's definition.
        turn = sign * 0.7**depth * (random.randn() * 0.2 + 1)
        if depth + 1 < DEPTH:
            branches += _tree(random, depth + 1, position + direction * length, angle + turn)
    return branches


@cache
def _branches():
    """{class: its branches}, all drawn from one generator."""
    random = np.random.RandomState(2)
    return {name: _tree(random, 0, ORIGIN, angle) for name, angle in CLASSES.items()}


@cache
def distribution(classes):
    """The mixture of the classes "A" (1016 components) or "AB" (2032), float64."""
    branches = [branch for name in classes for branch in _branches()[name]]
    weights = np.concatenate([branch.weights for branch in branches])
    return GaussianMixture(
        weights / weights.sum(),
        np.concatenate([branch.means for branch in branches]),
        np.concatenate([branch.covariances for branch in branches]),
    )


def branch_means(name):
    """The middle of each branch of class "A" or "B": [127, 2] float64."""
    return np.stack([branch.means.mean(0) for branch in _branches()[name]])


@cache
def points(classes, split):
    """Points of a distribution, the same at every call: [N, 2] float32.

    Args:
      classes: "A" or "AB".
      split: "train" (2^20 points) or "test" (2^13 others).
    """
    count, seed = SPLITS[split]
    mixture = distribution(classes)
    random = np.random.default_rng(seed)
    which = random.choice(len(mixture.weights), count, p=mixture.weights)
    roots = np.linalg.cholesky(mixture.covariances)
    offsets = np.einsum("nij,nj->ni", roots[which], random.standard_normal((count, 2)))
    return (mixture.means[which] + offsets).astype(np.float32)


def open_points(classes, split, conditions):
    """The Source of a split.

    Raises:
      UserError: for a split or conditions that there are not.
    """
    if split not in SPLITS:
        raise UserError(f"The points have no split {split}: they have {', '.join(SPLITS)}.")
    if conditions:
        raise UserError(f"The points have no condition {conditions[0].name}: leave it out.")
    return from_arrays(points(classes, split), origin=f"{classes} {split} {SPLITS[split]}")
