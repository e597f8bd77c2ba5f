import itertools

import numpy as np
import pytest

from jaxdiff.checkpoints import power_ema
from jaxdiff.checkpoints.power_ema import (
    ROUNDING,
    gamma,
    inner_product,
    profile_length,
    profile_name,
    solve,
)
from jaxdiff.config.training import LONGEST_POWER_EMA

TRACKED = (0.05, 0.1)


def weights(length, step, steps):
    """Of parameters 1 to `steps` in the average at `step`, by training's own recursion."""
    t = np.arange(1, step + 1)
    beta = (1 - 1 / t) ** (gamma(length) + 1)
    after = np.cumprod(np.append(beta[1:], 1)[::-1])[::-1]  # what the later steps leave
    return np.append((1 - beta) * after, np.zeros(steps - step))


def stored(count, step, lengths=TRACKED):
    """(lengths, steps) of the averages in evenly spaced snapshots, the last at `step`."""
    steps = step * np.arange(1, count + 1) // count
    return np.tile(lengths, count), np.repeat(steps, len(lengths))


def rebuilt_from(count, step, wanted, dtype="float32", lengths=TRACKED):
    lengths, steps = stored(count, step, lengths)
    return solve(lengths, steps, np.full(len(steps), ROUNDING[dtype]), wanted, step)


@pytest.mark.parametrize(("sigma_rel", "expected"), [(0.05, 16.97), (0.10, 6.94)])
def test_gammas_of_the_paper(sigma_rel, expected):
    assert round(gamma(sigma_rel), 2) == expected


def test_all_steps_count_alike_in_the_longest():
    assert abs(gamma(LONGEST_POWER_EMA)) < 1e-9


def test_a_name_says_its_length():
    assert profile_name(0.1) == "power_0.1"
    assert profile_length(profile_name(0.0123)) == 0.0123
    assert profile_length("0.9999") is None


@pytest.mark.parametrize(
    ("a", "b"), [((0.05, 100), (0.1, 100)), ((0.05, 60), (0.2, 100)), ((0.25, 100), (0.02, 7))]
)
def test_inner_products_are_the_integrals(a, b):
    # Midpoints of 2e6 cells over the time that both profiles have.
    edges = np.linspace(0, min(a[1], b[1]), 2_000_001)
    t = (edges[1:] + edges[:-1]) / 2
    density = [(gamma(s) + 1) * t ** gamma(s) / end ** (gamma(s) + 1) for s, end in (a, b)]
    expected = np.sum(density[0] * density[1]) * (edges[1] - edges[0])
    got = [inner_product(gamma(p[0]), p[1], gamma(q[0]), q[1]) for p, q in ((a, b), (b, a))]
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_inner_products_of_long_runs_and_short_lengths_are_finite():
    steps = np.array([1.0, 1e3, 1e6])
    got = inner_product(gamma(0.001), steps[:, None], gamma(0.28), steps)
    assert np.isfinite(got).all()
    assert (np.diag(got) > 0).all()


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_training_s_weights_are_the_integrals_over_steps(length):
    edges = (np.arange(301) / 300) ** (gamma(length) + 1)
    np.testing.assert_allclose(weights(length, 300, 300), np.diff(edges), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stored_profile_is_taken_as_it_is(dtype):
    lengths, steps = stored(10, 1000)
    rounding = np.full(20, ROUNDING[dtype])
    solution = solve(lengths, steps, rounding, TRACKED, 1000)
    expected = np.stack([(lengths == length) & (steps == 1000) for length in TRACKED], axis=1)
    np.testing.assert_array_equal(solution.coefficients, expected)
    np.testing.assert_array_equal(solution.norm, 1)
    np.testing.assert_allclose(solution.error, ROUNDING[dtype], atol=1e-7)


@pytest.mark.parametrize("count", [5, 20, 80])
@pytest.mark.parametrize("rounding", [0.0, ROUNDING["float32"]])
def test_the_linear_solve_finds_a_stored_profile_too(count, rounding):
    lengths, steps = stored(count, 1000)
    gammas = np.array([gamma(length) for length in lengths])
    products = inner_product(gammas[:, None], steps[:, None], gammas, steps)
    for length in TRACKED:
        target = inner_product(gammas, steps, gamma(length), 1000.0)
        square = inner_product(gamma(length), 1000.0, gamma(length), 1000.0)
        got = power_ema._nearest(products, target, np.full(2 * count, square * rounding**2))
        expected = (lengths == length) & (steps == 1000)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lengths", [TRACKED, (0.05, 0.1, 0.15)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_coefficients_sum_to_one(lengths, dtype):
    solution = rebuilt_from(20, 1000, (0.02, 0.07, 0.25), dtype, lengths)
    np.testing.assert_allclose(solution.coefficients.sum(axis=0), 1, rtol=1e-9)


def test_without_its_snapshot_a_tracked_profile_is_as_far_off_as_it_says():
    # Too much is missing for an answer: the last snapshot is 50 steps before the profile's end.
    lengths, steps = stored(20, 1000)
    early = steps < 1000
    near = solve(lengths[early], steps[early], np.zeros(38), TRACKED, 1000)
    assert (near.residual > 0.3).all()
    for m, length in enumerate(TRACKED):
        combination = sum(
            x * weights(*row, 1000)
            for x, *row in zip(near.coefficients[:, m], lengths[early], steps[early], strict=True)
        )
        difference = np.linalg.norm(combination - weights(length, 1000, 1000))
        square = inner_product(gamma(length), 1000, gamma(length), 1000)
        assert 0.9 * near.residual[m] < difference / np.sqrt(square) <= near.residual[m]


@pytest.mark.parametrize("length", [0.02, 0.07, 0.12, 0.2])
def test_a_rebuilt_profile_is_within_its_residual_which_falls_as_snapshots_get_denser(length):
    step, random = 1600, np.random.RandomState(0)
    # Parameters that jitter about a slow drift; the drift alone must come through exactly enough.
    times = np.arange(1, step + 1) / step
    jitter = random.standard_normal((step, 2000))
    drift = np.sin(3 * times)[:, None]
    expected = weights(length, step, step)
    residuals = []
    for count in (10, 20, 40, 80):
        solution = rebuilt_from(count, step, (length,))
        rows = np.stack([weights(s, t, step) for s, t in zip(*stored(count, step), strict=True)])
        got = solution.coefficients[:, 0] @ rows
        residual = solution.residual[0]
        size = np.linalg.norm(expected @ jitter)
        # For jitter the residual is the size of the error, not a bound: .1 of it is chance.
        error = np.linalg.norm(got @ jitter - expected @ jitter) / size
        assert 0.8 * residual < error < 1.1 * residual
        # By Cauchy and Schwarz, for every trajectory, about any constant.
        far = np.linalg.norm(drift - drift[-1])
        norm = np.sqrt(inner_product(gamma(length), step, gamma(length), step))
        assert abs(got @ drift - expected @ drift) <= residual * norm * far + 1e-9
        residuals.append(residual)
    assert all(b < a / 2 for a, b in itertools.pairwise(residuals))
    assert residuals[-1] < 0.01


def test_the_solution_is_the_best_there_is():
    solution = rebuilt_from(10, 1000, (0.07,), "bfloat16")
    lengths, steps = stored(10, 1000)
    gammas = np.array([gamma(length) for length in lengths])
    products = inner_product(gammas[:, None], steps[:, None], gammas, steps)
    target = inner_product(gammas, steps, gamma(0.07), 1000.0)
    square = inner_product(gamma(0.07), 1000.0, gamma(0.07), 1000.0)

    def error(x):
        residual = (x @ products @ x - 2 * target @ x + square) / square
        return np.sqrt(residual + ROUNDING["bfloat16"] ** 2 * x @ x)

    best = solution.coefficients[:, 0]
    np.testing.assert_allclose(error(best), solution.error[0], rtol=1e-9)
    random = np.random.RandomState(0)
    for _ in range(20):
        aside = random.standard_normal(20)
        aside -= aside.mean()  # the sum stays 1
        assert error(best + 0.05 * aside) > solution.error[0]


def test_coarse_rounding_is_kept_from_being_multiplied():
    fine, coarse = (
        rebuilt_from(40, 1000, (0.02,), dtype, (0.05, 0.1, 0.15))
        for dtype in ("float32", "bfloat16")
    )
    assert fine.norm > 200
    assert fine.error < 0.003
    assert coarse.norm < 25
    assert coarse.error < 0.04


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_what_rounding_does(dtype):
    import ml_dtypes

    values = np.exp(np.random.RandomState(0).uniform(-10, 10, 200_000))
    rounded = values.astype(dtype if dtype == "float32" else ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_allclose(np.std(rounded / values - 1), ROUNDING[dtype], rtol=0.01)
