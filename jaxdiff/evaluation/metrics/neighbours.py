"""Precision, recall, density and coverage, by balls around each row to its k-th nearest neighbour.

    r_i = |x_i - (its k-th nearest other row of the same set)|
    precision = share of samples that are in a ball of the reference
    recall    = share of reference images that are in a ball of the samples
    density   = 1/(k N) sum over samples of the number of reference balls that they are in
    coverage  = share of the reference balls that have a sample in them

(Kynkaanniemi et al. 2019, arXiv:1904.06991, closed balls |x - y| <= r, k = 3; Naeem et al. 2020,
arXiv:2002.09797, open balls |x - y| < r, k = 5.) The two kinds differ only where rows are equal to
others, and there much. All four depend on the numbers of rows of both sets.

Products of blocks of rows are computed on the device, in float32. What they cannot decide, a few
candidates for each k-th neighbour and pairs at the very edge of a ball, is computed from
differences in float64: the shares are those of exact arithmetic. ADM's evaluator computes float16
squares instead, and counts a row's distance to itself as 0 or not by rounding: shares agree to two
decimals.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 8192  # rows, at most
PAIRS = 2048  # differences that are computed at once
MORE = 4  # candidates beyond the k-th neighbour


class _Block(NamedTuple):
    """Rows on the device, padded.

    Attributes:
      rows: [B, D] float32, less a common center.
      squares: [B], their squared lengths; infinite of padding.
      slack: [B], what float32 may change in a squared distance, the share of this row.
      radii: [B], the squared radii of their balls; -inf of none.
    """

    rows: jax.Array
    squares: jax.Array
    slack: jax.Array
    radii: jax.Array


def precision_recall(real, fake, *, k=3, ball="closed", balls=None):
    """Precision and recall above.

    Arguments:
      real: [M, D] features of the reference, M > k.
      fake: [N, D] of the samples, N > k.
      k: which neighbour.
      ball: "closed" or "open".
      balls: (radii(real, k), radii(fake, k)), where they are known.

    Returns:
      (precision, recall), floats.
    """
    of_real, of_fake = balls or (radii(real, k), radii(fake, k))
    (in_real, _), (_, in_fake) = _inside(real, fake, of_real, of_fake, ball)
    return float((in_real > 0).mean()), float((in_fake > 0).mean())


def density_coverage(real, fake, *, k=5, balls=None):
    """Density and coverage above, of open balls, as the package prdc.

    Arguments:
      real: [M, D] features of the reference, M > k.
      fake: [N, D] of the samples, N >= 1.
      k: which neighbour.
      balls: radii(real, k), where they are known.

    Returns:
      (density, coverage), floats.
    """
    of_real = radii(real, k) if balls is None else balls
    (in_real, covered), _ = _inside(real, fake, of_real, np.full(len(fake), -1.0), "open")
    return float(in_real.sum() / (k * len(fake))), float((covered > 0).mean())


def rows_needed(k):
    """How many rows a set needs to have k-th neighbours."""
    return k + 1


def radii(rows, k):
    """Distance of each row to its k-th nearest other row.

    Equal rows are at distance 0, and count. A radius is exact but for rounding of float64.

    Arguments:
      rows: [N, D], N > k.
      k: at least 1.

    Returns:
      [N] float64.
    """
    if len(rows) < rows_needed(k):
        raise ValueError(f"{len(rows)} rows have no neighbour number {k}.")
    count = min(k + MORE, len(rows) - 1)
    bounds, numbers, slack = _candidates(rows, count)
    found = _distances(rows, rows, np.arange(len(rows))[:, None], numbers)
    radius = np.partition(found, k - 1)[:, k - 1]
    # Rows for which others than the candidates may be as near.
    unsure = np.flatnonzero((bounds < radius**2 + slack) & (radius > 0) & (count < len(rows) - 1))
    for start in range(0, len(unsure), 256):
        some = unsure[start : start + 256]
        numbers = _candidates_in_float64(rows, some, count)
        found = _distances(rows, rows, some[:, None], numbers)
        radius[some] = np.partition(found, k - 1)[:, k - 1]
    return radius


def _candidates(rows, count):
    """The `count` nearest others of each row, by float32.

    Returns:
      ([N] squared distance of the last one, [N, count] int row numbers, [N] what float32 may change
      in such squares).
    """
    blocks = _blocks(rows, _center(rows))
    size = len(blocks[0].squares)
    none = jnp.full((size, count), jnp.inf), jnp.zeros((size, count), jnp.int32)
    best = [none] * len(blocks)
    for i, a in enumerate(blocks):
        for j in range(i, len(blocks)):
            # Each product once: its rows are neighbours of its columns too.
            best[i], other = _nearer(a, blocks[j], best[i], best[j], i * size, j * size)
            if j > i:
                best[j] = other
    joined = [np.concatenate(part)[: len(rows)] for part in zip(*jax.device_get(best), strict=True)]
    slack = np.concatenate([block.slack for block in blocks])[: len(rows)].astype(np.float64)
    return joined[0][:, -1].astype(np.float64), joined[1], slack + slack.max()


def _candidates_in_float64(rows, some, count):
    """The `count` nearest others of rows number `some`: [S, count] int."""
    center, squares = _center(rows), []
    chosen = rows[some] - center
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK] - center
        squares.append((part**2).sum(1) - 2 * chosen @ part.T)
    squares = np.concatenate(squares, 1)
    squares[np.arange(len(some)), some] = np.inf
    return np.argpartition(squares, count - 1)[:, :count]


def _inside(real, fake, of_real, of_fake, ball):
    """Which rows of one set are in which balls of the other.

    Arguments:
      of_real, of_fake: [M] and [N] radii of the balls around the rows; negative: no ball.

    Returns:
      ([N], [M]) int: the reference balls that each sample is in, the samples in each of those;
      ([N], [M]) int: the reference rows in each sample's ball, the balls each reference row is in.
    """
    center = _center(real)
    blocks = _blocks(fake, center, of_fake), _blocks(real, center, of_real)
    counts = [[np.zeros(n, np.int64) for n in (len(fake), len(real))] for _ in range(2)]
    for i, x in enumerate(blocks[0]):
        for j, y in enumerate(blocks[1]):
            corner = i * len(x.squares), j * len(y.squares)
            for count, found, radius in zip(
                counts, jax.device_get(_count(x, y)), (of_real, of_fake), strict=True
            ):
                *sure, edge = found
                pairs = np.argwhere(edge) + corner
                distances = _distances(fake, real, pairs[:, 0], pairs[:, 1])
                limits = radius[pairs[:, 1 if radius is of_real else 0]]
                pairs = pairs[distances <= limits if ball == "closed" else distances < limits]
                for axis in range(2):
                    total = count[axis][corner[axis] :][: len(sure[axis])]
                    total += sure[axis][: len(total)]
                    np.add.at(count[axis], pairs[:, axis], 1)
    return counts


def _distances(a, b, i, j):
    """Of a[i] from b[j], of any shape that i and j have together: float64.

    The same rows have the same distance, to the bit, wherever they are.
    """
    i, j = np.broadcast_arrays(i, j)
    found = np.empty(i.size)
    for start in range(0, i.size, PAIRS):
        part = slice(start, start + PAIRS)
        difference = np.subtract(a[i.flat[part]], b[j.flat[part]], dtype=np.float64)
        difference *= difference
        found[part] = difference.sum(-1)
    return np.sqrt(found).reshape(i.shape)


def _center(rows):
    return rows.mean(0, dtype=np.float64)


def _blocks(rows, center, radii=None):
    """List of _Block of one size."""
    number = -(-len(rows) // BLOCK)
    size = -(-len(rows) // number)
    # Few sizes, as each is compiled.
    size = -(-size // 64) * 64 if number > 1 else max(64, 1 << (size - 1).bit_length())
    share = 4 * (1 + np.sqrt(rows.shape[1])) * np.finfo(np.float32).eps
    found = []
    for start in range(0, len(rows), size):
        part = np.zeros((size, rows.shape[1]), np.float32)
        count = min(size, len(rows) - start)
        part[:count] = rows[start : start + count] - center
        squares = np.einsum("nd,nd->n", part, part, dtype=np.float64)
        slack, limits = share * squares, np.full(size, -np.inf)
        squares[count:] = np.inf
        if radii is not None:
            radius = radii[start : start + count]
            limits[:count] = np.where(radius < 0, -np.inf, radius**2)
        found.append(_Block(part, *(np.float32(each) for each in (squares, slack, limits))))
    return jax.device_put(found)


def _squared_distances(a, b):
    products = jnp.dot(a.rows, b.rows.T, precision=jax.lax.Precision.HIGHEST)
    return a.squares[:, None] + b.squares - 2 * products


@jax.jit
def _nearer(a, b, best_a, best_b, start_a, start_b):
    """The nearest others of a's and b's rows so far, with the others of this pair of blocks."""
    squares = _squared_distances(a, b)
    numbers_a, numbers_b = (start + jnp.arange(len(squares)) for start in (start_a, start_b))
    squares = jnp.where(numbers_a[:, None] == numbers_b, jnp.inf, squares)
    return _merge(best_a, squares, start_b), _merge(best_b, squares.T, start_a)


def _merge(best, squares, start):
    values, numbers = best
    count = values.shape[1]
    negative, places = jax.lax.top_k(-squares, min(count, squares.shape[1]))
    values = jnp.concatenate([values, -negative], 1)
    numbers = jnp.concatenate([numbers, start + places], 1)
    negative, places = jax.lax.top_k(-values, count)
    return -negative, jnp.take_along_axis(numbers, places, 1)


@jax.jit
def _count(fake, real):
    """For the reference's balls, then for the samples': what is in them, and what is at an edge.

    Returns:
      Two of ([B] int by sample, [B'] int by reference row, [B, B'] bool: too near to the edge for
      float32, and not counted).
    """
    squares, slack = _squared_distances(fake, real), fake.slack[:, None] + real.slack

    def inside(limits):
        edge = jnp.abs(squares - limits) <= slack
        within = (squares < limits) & ~edge
        return within.sum(1), within.sum(0), edge

    return inside(real.radii), inside(fake.radii[:, None])
