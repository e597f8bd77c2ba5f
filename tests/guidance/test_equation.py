"""Oracles: mixtures of Gaussians, of which guided scores are known by differentiation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import DDIM, DDPM, DPMpp, Heun
from jaxdiff.diffusion.denoiser import Level, Prediction
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.combiners import Apg, rescale
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.models.condition import Condition
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.grid import denoised
from jaxdiff.samplers.heun import HeunSampler
from jaxdiff.samplers.loop import advance, begin, sample
from tests.closed_forms import BOTH, WIDER, A, B, classifier, edm_levels, preserving, tweedie
from tests.guided import guided, unguided, with_classifier

LEVELS = [
    Level(*map(jnp.float32, level))
    for level in [(1, 0.05), (1, 0.7), (1, 6), (0.8, 0.6), (0.1, 0.995)]
]


def noisy(level, count=16):
    x0 = 0.5 * jax.random.normal(jax.random.key(1), (count, 2))
    return level.alpha * x0 + level.sigma * jax.random.normal(jax.random.key(2), (count, 2))


def predict(guidance, x, level):
    """The guided prediction in the first step."""
    decisions = guidance.decide(0, sample_keys(0, jnp.arange(len(x))))
    return guidance.denoise(x, level, guidance.init(x.shape), decisions)[0]


@pytest.mark.parametrize("w", [-0.5, 0.0, 0.4, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("reference", [BOTH, WIDER], ids=["cfg", "autoguidance"])
def test_weights_are_powers_of_densities(reference, w):
    """Classifier-free guidance denoises p(x | c)^w p(x)^(1 - w), and a guide does it likewise."""

    def log_density(x, level):
        return w * A.log_density(x, level) + (1 - w) * reference.log_density(x, level)

    guidance = guided(A, reference, num_steps=1, weights=[w])
    exact = jax.jit(partial(tweedie, log_density))
    combined = jax.jit(lambda x, level: predict(guidance, x, level).x0)
    for level in LEVELS:
        x = noisy(level)
        expected, actual = exact(x, level), combined(x, level)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=5e-4, err_msg=str(level))


def test_several_references_and_a_classifier_add_their_scores():
    labels = jnp.arange(16) % 2
    guidance = guided(BOTH, WIDER, B, num_steps=1, weights=[1.5, 0.3])
    guidance = dataclasses.replace(
        guidance,
        gradient=with_classifier(BOTH, classifier, labels, 2.0, 1).gradient,
        params=dataclasses.replace(guidance.params, scales=jnp.full(1, 2.0)),
    )

    def log_density(x, level):
        both, wider, b = (m.log_density(x, level) for m in (BOTH, WIDER, B))
        log_p = jax.nn.log_softmax(classifier(x, level))[jnp.arange(16), labels]
        return both + 0.5 * (both - wider) - 0.7 * (both - b) + 2.0 * log_p

    exact = jax.jit(partial(tweedie, log_density))
    combined = jax.jit(lambda x, level: denoised(predict(guidance, x, level), level, False))
    for level in LEVELS[:4]:
        expected, actual = exact(noisy(level), level), combined(noisy(level), level)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=5e-4, err_msg=str(level))


def test_the_combination_is_the_same_in_eps_x0_and_v():
    level = Level(jnp.float32(0.8), jnp.float32(0.6))
    x, w = noisy(level), (2.5, 0.2)
    x0 = [denoiser(x, level).x0 for denoiser in (A, BOTH, WIDER)]
    eps = [(x - level.alpha * d) / level.sigma for d in x0]
    v = [level.alpha * e - level.sigma * d for e, d in zip(eps, x0, strict=True)]

    def combine(main, *others):
        return main + sum((a - 1) * (main - other) for a, other in zip(w, others, strict=True))

    actual = predict(guided(A, BOTH, WIDER, num_steps=1, weights=w), x, level).x0
    by_eps = (x - level.sigma * combine(*eps)) / level.alpha
    by_v = level.alpha * x - level.sigma * combine(*v)
    for expected in (combine(*x0), by_eps, by_v):
        np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("params", [{}, {"combiner": Apg(0.0, -0.5, 0.3), "rescale": 0.7}])
def test_a_guide_that_is_the_network_itself_does_nothing(params):
    level = Level(jnp.float32(1), jnp.float32(0.7))
    x = noisy(level)
    actual = predict(guided(A, A, num_steps=1, weights=[7.0], **params), x, level).x0
    np.testing.assert_allclose(actual, A(x, level).x0, rtol=0, atol=0 if not params else 1e-6)


def test_weight_0_is_the_reference():
    level = Level(jnp.float32(1), jnp.float32(0.7))
    x = noisy(level)
    actual = predict(guided(A, WIDER, num_steps=1, weights=[0.0]), x, level).x0
    np.testing.assert_allclose(actual, WIDER(x, level).x0, atol=1e-6)


def test_what_is_no_x0_is_the_main_networks():
    def main(x, level, condition, dropout=None):
        return Prediction(x, jnp.full_like(x, 0.25))

    def guide(x, level, condition, dropout=None):
        return Prediction(-x, jnp.full_like(x, 0.75))

    x = jnp.ones((2, 3))
    prediction = predict(guided(main, guide, num_steps=1, weights=[3.0]), x, Level(1.0, 1.0))
    np.testing.assert_array_equal(prediction.variance_fraction, np.full((2, 3), 0.25))
    np.testing.assert_allclose(prediction.x0, 5 * x)


def test_references_share_the_rescaling_and_each_has_its_own_momentum():
    """Equation (1) written out over two steps, with a reference that is left out of the second."""
    x = jax.random.normal(jax.random.key(0), (4, 4, 6))
    main, first, second, _ = x
    level = Level(1.0, 1.0)
    guidance = guided(
        lambda *_: Prediction(main),
        lambda *_: Prediction(first),
        lambda *_: Prediction(second),
        num_steps=2,
        weights=[2.0, 4.0],
        combiner=Apg(1.0, 0.5, jnp.inf),
        rescale=0.6,
    )
    keys = sample_keys(0, jnp.arange(4))
    state = guidance.init(main.shape)
    prediction, state = guidance.denoise(main, level, state, guidance.decide(0, keys))
    guided_x0 = main + (main - first) + 3 * (main - second)
    np.testing.assert_allclose(prediction.x0, rescale(guided_x0, main, 0.6), rtol=1e-5, atol=1e-6)
    only_second = dataclasses.replace(guidance, active=(1,))
    prediction, state = only_second.denoise(main, level, state, only_second.decide(1, keys))
    guided_x0 = main + 3 * 1.5 * (main - second)
    np.testing.assert_allclose(prediction.x0, rescale(guided_x0, main, 0.6), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state[0], main - first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state[1], 1.5 * (main - second), rtol=1e-5, atol=1e-6)


SAMPLERS = {
    "ddim": (DdimSampler(DDIM(clip=False)), preserving(edm_levels(12))),
    "heun": (HeunSampler(Heun(clip=False)), edm_levels(12)),
    "dpmpp": (DpmppSampler(DPMpp(clip=False)), edm_levels(12)),
}


def run(sampler, levels, guidance_of, count=32):
    grid = sampler.grid(levels)
    keys = sample_keys(0, jnp.arange(count))
    noise = jax.random.normal(jax.random.key(3), (count, 2))
    x = noise * np.float32(np.hypot(levels.alpha[0], levels.sigma[0]))
    guidance = guidance_of(grid.num_steps)
    return jax.jit(lambda x: sample(sampler, grid, guidance, x, keys))(x)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_exact_classifier_makes_the_conditional_model(name):
    """At scale 1, sample for sample: in deterministic samplers the score enters exactly."""
    labels = jnp.zeros(32, jnp.int32)
    by_classifier = run(
        *SAMPLERS[name], lambda n: with_classifier(BOTH, classifier, labels, 1.0, n)
    )
    conditional = run(*SAMPLERS[name], lambda n: unguided(A))
    np.testing.assert_allclose(by_classifier, conditional, atol=2e-3)


def test_in_ancestral_sampling_the_classifier_is_exact_in_the_limit_of_many_steps():
    labels, errors = jnp.zeros(32, jnp.int32), []
    for count in (20, 160):
        path = DdpmSampler(DDPM(clip=False)), preserving(edm_levels(count))
        by_classifier = run(*path, lambda n: with_classifier(BOTH, classifier, labels, 1.0, n))
        errors.append(float(np.abs(by_classifier - run(*path, lambda n: unguided(A))).mean()))
    assert errors[0] > 0.004, errors
    assert errors[1] < errors[0] / 4, errors


def test_samples_of_cfg_are_those_of_the_guided_density():
    def exact(x, level, condition, dropout=None):
        def log_density(x, level):
            return 3 * A.log_density(x, level) - 2 * BOTH.log_density(x, level)

        return Prediction(tweedie(log_density, x, level))

    by_cfg = run(*SAMPLERS["heun"], lambda n: guided(A, BOTH, num_steps=n, weights=[3.0]))
    expected = run(*SAMPLERS["heun"], lambda n: unguided(exact))
    np.testing.assert_allclose(by_cfg, expected, atol=3e-3)


@pytest.mark.parametrize("together", [False, True])
def test_conditions_of_one_network_may_share_a_batch(together):
    """Predictions of four conditions and two networks, each alone and in one batch."""
    sizes = []

    def network(gain):
        def denoise(x, level, condition, dropout=None):
            sizes.append(len(x))
            y = condition.vector[:, None, :3]
            return Prediction(jnp.tanh(gain * x * y + level.sigma), y * x)

        return denoise

    def drawn(number):
        embeddings = jax.random.normal(jax.random.key(number), (5, 3))
        return lambda i, keys: Condition(embeddings)

    main, guide = network(1.0), network(0.3)
    branches = [NetworkBranch(d, drawn(n)) for n, d in enumerate([main, guide, main, main, guide])]
    guidance = Guidance(
        main=branches[0],
        references=tuple(branches[1:]),
        params=GuidanceParams(jnp.array([[2.0], [1.5], [0.5], [3.0]])),
        together=together,
    )
    x, level = jax.random.normal(jax.random.key(9), (5, 4, 3)), Level(1.0, 0.5)
    actual = predict(guidance, x, level)
    assert sizes == ([15, 10] if together else [5] * 5)
    first, *others = (b.denoiser(x, level, b.condition(0, None)) for b in branches)
    expected = first.x0
    for w, other in zip([2.0, 1.5, 0.5, 3.0], others, strict=True):
        expected = expected + (w - 1) * (first.x0 - other.x0)
    np.testing.assert_allclose(actual.x0, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(actual.variance_fraction, first.variance_fraction)


def test_a_step_decides_once_and_the_corrector_keeps_it():
    """Weight, scale and condition of step 1 hold at the level where step 2 starts, too."""
    seen = []

    def main(x, level, condition, dropout=None):
        seen.append((float(level.sigma), float(condition.vector[0, 0])))
        return Prediction(jnp.zeros_like(x))

    def counted(i, keys):
        return Condition(jnp.full((2, 1), i, jnp.float32))

    guidance = Guidance(
        main=NetworkBranch(main, counted),
        references=(NetworkBranch(lambda x, *_: Prediction(jnp.full_like(x, -1.0))),),
        params=GuidanceParams(jnp.array([[1.0, 3.0, 1.0]]), jnp.array([0.0, 10.0, 0.0])),
        gradient=lambda x, level: jnp.ones_like(x),
    )
    sampler, levels = HeunSampler(Heun(clip=False)), edm_levels(3, 0.5, 2.0)
    grid, predictions = sampler.grid(levels), []
    decisions = guidance.decide(1, sample_keys(0, jnp.arange(2)))

    def denoise(x, level, state):
        prediction, state = guidance.denoise(x, level, state, decisions)
        predictions.append(prediction)
        return prediction, state

    state = guidance.init((2, 1))
    sampler.step(denoise, grid, 1, jnp.ones((2, 1)), jnp.zeros((2, 1)), (), state)
    np.testing.assert_allclose(seen, [(levels.sigma[1], 1), (levels.sigma[2], 1)], rtol=1e-6)
    for prediction in predictions:
        np.testing.assert_allclose(prediction.x0, 2.0)
        np.testing.assert_allclose(prediction.classifier_score, 10.0)


@pytest.mark.parametrize(
    "sampler",
    [HeunSampler(Heun(clip=False)), DpmppSampler(DPMpp(clip=False))],
    ids=["heun", "dpmpp"],
)
def test_momentum_is_updated_once_a_step(sampler):
    """With momentum 1 and a difference of 1, the state counts the steps."""
    guidance = guided(
        lambda x, *_: Prediction(jnp.ones_like(x)),
        lambda x, *_: Prediction(jnp.zeros_like(x)),
        num_steps=6,
        weights=[2.0],
        combiner=Apg(0.0, 1.0, jnp.inf),
    )
    grid = sampler.grid(edm_levels(6))
    values = begin(sampler, guidance, jnp.zeros((2, 3)))
    _, _, (state,) = advance(sampler, grid, guidance, values, sample_keys(0, jnp.arange(2)), 0, 4)
    np.testing.assert_allclose(state, np.full((2, 3), 4.0))
