"""Inception score (IS): how sure a classifier is of each image, and how varied over all of them.

    IS = exp(mean_n KL(p(c | x_n) || p(c))) = exp(H[p(c)] - mean_n H[p(c | x_n)])

with p(c | x_n) = softmax(logits_n), p(c) = mean_n p(c | x_n) and the entropy H[p] = -sum_c p log p
(Salimans et al. 2016, arXiv:1606.03498), averaged over splits of the images. It depends on the
size of the splits, and on their order: a split of few classes has a low score.

The logits are without bias, as those of every evaluator since OpenAI's of 2016. The softmax is
float64, and 0 log 0 = 0: a class of probability 0 adds nothing. (OpenAI's is float32 with neither
that rule nor an epsilon: NaN where a probability underflows, else equal to some 1e-6.)
"""

import itertools

import numpy as np


def splits_in_order(logits, size=5000):
    """IS by the rule of OpenAI's evaluator for ADM: consecutive splits, as the images come.

    Of samples sorted by class this is far too low: `shuffled` is not.

    Arguments:
      logits: [N, classes] float.
      size: images of a split; the last one may be smaller, and has the same weight.

    Returns:
      The mean over splits, a float.
    """
    starts = range(0, len(logits), size)
    return float(np.mean([_score(logits[start : start + size]) for start in starts]))


def shuffled(logits, size=5000, seed=2020):
    """`splits_in_order` of the images in the order RandomState(seed).permutation(N)."""
    return splits_in_order(logits[_order(len(logits), seed)], size)


def ten_splits(logits, splits=10, seed=2020):
    """IS by the rule of Salimans et al. and torch-fidelity: `splits` parts of about one size.

    Part i has the rows i N // splits to (i + 1) N // splits, of the images in the order
    RandomState(seed).permutation(N), or as they come if seed is None.

    Arguments:
      logits: [N, classes] float, N >= splits.
      splits: how many.
      seed: of the order, or None.

    Returns:
      (mean, standard deviation) over the splits, floats; the deviation is the population's.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits are of as many rows at least, not of {len(logits)}.")
    order = _order(len(logits), seed)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[order[a:b]]) for a, b in itertools.pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _order(count, seed):
    return np.arange(count) if seed is None else np.random.RandomState(seed).permutation(count)


def _score(logits):
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.exp(_entropy(p.mean(0)) - _entropy(p).mean())


def _entropy(p):
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
