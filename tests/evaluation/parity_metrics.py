"""What our metrics make of the features of golden cases: the key of a value says what it is of."""

import re
from functools import cache

import numpy as np
import pytest

from jaxdiff.evaluation.metrics import diversity, inception_score, kid, neighbours
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from tests import golden_format

CASES = golden_format.names("metrics*")
KEYS = [(name, key) for name in CASES for key in golden_format.load(name)[0]["values"]]
# Largest difference allowed, as a share of the value, by the start of its key. Where it is not
# tiny, the stored value has float32 in it: means, kernels or probabilities.
EXACT, FEW_ROWS, FLOAT32 = 1e-12, 1e-6, 1e-6
TOLERANCE = {
    "frechet": 1e-9,
    "kid": 1e-9,
    "kid/float32": 1e-3,
    "inception_score/adm": FLOAT32,
    "torch_fidelity": FLOAT32,
}


def rows(arrays, name):
    """Of a set of features, as its name says it; `few2` are the samples after the first few."""
    count = len(arrays["few"])
    return {"self": arrays["real"], "few2": arrays["fake"][count : 2 * count], **arrays}[name]


def distinct(arrays, name):
    """How many rows of a set are different from each other."""
    return len(np.unique(rows(arrays, name), axis=0))


def sets(key):
    """The names of the two sets that a Frechet distance is of."""
    name = key.split("/")[1].removesuffix("_with_itself")
    return name.split("_and_") if "_and_" in name else ("real", name)


def frechet(case, arrays, key):
    return distance(*(Moments.of(rows(arrays, name)) for name in sets(key)))


def kernel(case, arrays, key):
    real, fake = arrays["real"], arrays["fake"]
    if found := re.search(r"all_of_the_first_(\d+)", key):
        size = int(found[1])
        return kid.kid(real[:size], fake[:size], subsets=1, size=size)[0]
    pattern = r"(\d+) subsets of (\d+) drawn by RandomState\((\d+)\)"
    subsets, size, seed = map(int, re.search(pattern, case["notes"]["kid"]).groups())
    both = kid.kid(real, fake, subsets=subsets, size=size, seed=seed)
    return both[key.endswith("std")]


def score(case, arrays, key):
    logits = arrays["logits"]
    if key.endswith("one_split"):
        return inception_score.splits_in_order(logits, len(logits))
    if found := re.search(r"splits_of_(\d+)", key):
        return inception_score.splits_in_order(logits, int(found[1]))
    splits = int(re.search(r"(\d+)_splits", key)[1])
    seed = re.search(r"shuffled_(\d+)", key)
    both = inception_score.ten_splits(logits, splits, seed and int(seed[1]))
    return both[key.endswith("std")]


def neighbourhood(case, arrays, key):
    peer, (metric, k, name) = key.split("/")[0], key.split("/")[-3:]
    real, fake, k = arrays["real"], rows(arrays, name), int(k[1:])
    if metric in ("density", "coverage"):
        return neighbours.density_coverage(real, fake, k=k)[metric == "coverage"]
    ball = "open" if peer == "prdc" else "closed"
    return neighbours.precision_recall(real, fake, k=k, ball=ball)[metric == "recall"]


def similarity(case, arrays, key):
    conditions = arrays["conditions"].astype(np.float64)  # of length 1, but for float32
    values = np.array([diversity.mss_of_units(each) for each in conditions])
    if key.endswith("without_diagonal"):
        n = conditions.shape[1]
        return ((values * n - 1) / (n - 1)).mean()
    return values if key.endswith("per_condition") else values.mean()


def vendi(case, arrays, key):
    _, order, what = key.split("/")
    q = float(order[1:])
    if found := re.fullmatch(r"dual_of_condition_(\d+)", what):
        return diversity.vendi(arrays["conditions"][int(found[1])], q=q)
    if what in ("per_condition", "mean"):
        conditions = arrays["conditions"].astype(np.float64)
        values = np.array([diversity.vendi_of_units(each, q) for each in conditions])
        return values if what == "per_condition" else values.mean()
    return diversity.vendi(arrays[what.removesuffix("_dual")], q=q)


BY = {
    "frechet": frechet,
    "kid": kernel,
    "inception_score": score,
    **dict.fromkeys(("precision", "recall", "torch_fidelity", "prdc"), neighbourhood),
    "mss": similarity,
    "vendi": vendi,
}


@cache
def computed(name, key):
    """(What we compute, what is stored, the largest difference allowed) of a value."""
    case, arrays = golden_format.load(name)
    kind, stored = key.split("/")[0], np.asarray(case["values"][key])
    if kind not in BY:
        pytest.skip(f"{key} is of an unknown metric")
    share = next((t for k, t in reversed(TOLERANCE.items()) if key.startswith(k)), EXACT)
    if "float32_mean" in key:
        share = FLOAT32
    if kind == "frechet" and min(distinct(arrays, n) for n in sets(key)) <= len(arrays["real"][0]):
        share = FEW_ROWS
    # The distance of a set from itself is 0, but for rounding of what is subtracted.
    scale = np.trace(np.cov(arrays["real"].T)) if "with_itself" in key else np.abs(stored).max()
    return np.asarray(BY[kind](case, arrays, key)), stored, share * scale
