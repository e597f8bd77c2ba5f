"""Guided samples by number, of a network that costs nothing to compile and counts its calls."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.adm import Adm
from jaxdiff.diffusion.parameterization import FIXED_SMALL
from jaxdiff.guidance.cads import Cads, gamma
from jaxdiff.guidance.combiners import Apg
from jaxdiff.guidance.equation import GuidanceParams
from jaxdiff.guidance.weights import Steps, within
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.samplers.ddim import Ddim
from jaxdiff.samplers.ddpm import Ddpm
from jaxdiff.samplers.dpmpp import DpmPp
from jaxdiff.samplers.heun import Heun
from jaxdiff.sampling.pipeline import ConditionKind, Generator, GuidanceReference, Params
from tests.closed_forms import edm_levels

CLASSES = 10
PROCESS = Adm(schedule=schedules.cosine, variance=FIXED_SMALL)
SAMPLERS = {
    "ddpm": Ddpm(),
    "ddim": Ddim(),
    "heun": Heun(),
    "dpmpp": DpmPp(),
}
NULL, ICG = GuidanceReference(ConditionKind.NULL), GuidanceReference(ConditionKind.RANDOM)
GUIDE, GUIDE_NULL = (
    GuidanceReference(ConditionKind.LABEL, 0),
    GuidanceReference(ConditionKind.NULL, 0),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Stub:
    """A network of a few operations; parameters are a gain and a table of embeddings."""

    calls: list | None = None
    drop_rate: float = 0.0

    @property
    def spec(self):
        return SimpleNamespace(num_classes=CLASSES)

    def embed(self, params, labels):
        return params["table"][labels]

    def _note(self):
        if self.calls is not None:
            self.calls.append(1)

    def apply(self, params, x, time, embedding, low_res=None):
        self._note()
        told = embedding[:, None, None, :4]
        if low_res is not None:
            told = told + low_res
        return jnp.tanh(params["gain"] * x + told + jnp.sin(time / 300)[:, None, None, None])


class StubClassifier(Stub):
    def apply(self, params, x, time):
        self._note()
        return x.reshape(len(x), -1)[:, :CLASSES] ** 2


def params_of(gain, seed):
    table = np.random.RandomState(seed).standard_normal((CLASSES + 1, 8))
    return {"gain": np.float32(gain), "table": np.float32(table)}


PARAMS = Params(params_of(1.0, 0), (params_of(0.3, 1),), params_of(0.0, 2))


def make(sampler, references=(), counted=False, classifier_active=False, devices=1, **fields):
    """(Generator, the calls of main network, guide and classifier)."""
    calls = [[], [], []] if counted else [None] * 3
    generate = Generator(
        network=Stub(calls[0]),
        process=PROCESS,
        sampler=sampler,
        shape=(2, 2, 4),
        classes=tuple(range(CLASSES)),
        mesh=make_mesh(devices=jax.devices()[:devices]),
        guides=((Stub(calls[1]), PROCESS),),
        references=references,
        classifier=StubClassifier(calls[2]) if classifier_active else None,
        **fields,
    )
    return generate, calls


def constant(num_steps, *weights, scale=None, **fields):
    rows = np.float32(np.reshape(weights, (-1, 1))) * np.ones((1, num_steps), np.float32)
    return GuidanceParams(
        rows, None if scale is None else np.full(num_steps, scale, np.float32), **fields
    )


def annealed(num_steps, tau1=0.3, tau2=0.9, scale=0.5, psi=1.0):
    time = 1 - (np.arange(num_steps) + 0.5) / num_steps
    gammas = np.float32(gamma(time, tau1, tau2))
    return Cads(gammas, np.float32(scale), np.float32(psi))


def draw(generate, num_steps=6, strength=None, cads=None, count=3, batch_size=64, numbers=None):
    grid = generate.sampler.grid(edm_levels(num_steps, sigma_max=4.0))
    numbers = np.arange(count) if numbers is None else np.array(numbers)
    return generate(PARAMS, grid, 5, numbers, batch_size, strength=strength, cads=cads)


def counted_and_promised(
    sampler, references, strength, num_steps, classifier_active=False, cads=None
):
    """Evaluations of the main network, the guide and the classifier."""
    generate, calls = make(sampler, references, counted=True, classifier_active=classifier_active)
    with jax.disable_jit():
        draw(generate, num_steps, strength, cads, count=1)
    told = generate.evaluations(num_steps, strength)
    return tuple(map(len, calls)), (told.main, *told.guides, told.classifier)


def inside(num_steps, weights, interval=(0.19, 1.61), scale=None):
    """Weights, and perhaps a scale, within the interval."""
    ratio = edm_levels(num_steps).ratio[:-1]  # the published grid
    steps = Steps(ratio, ratio)
    rows = [within(np.full(num_steps, w), steps, interval, 1.0) for w in weights]
    rows = np.float32(rows).reshape(len(weights), num_steps)
    if scale is not None:
        scale = np.float32(within(np.full(num_steps, scale), steps, interval, 0.0))
    return GuidanceParams(rows, scale)


def test_the_published_interval_costs_6_of_32_steps():
    """63 evaluations of the network, and 2 of the guide in each of 6 steps."""
    counts, promised = counted_and_promised(Heun(), (GUIDE,), inside(32, [2.1]), 32)
    assert counts == promised == (63, 12, 0)


def test_an_interval_that_holds_the_last_step_has_one_evaluation_there():
    strength = inside(8, [2.0], (0.0, 0.05), scale=1.0)
    guided_steps = int((strength.weights != 1).sum())
    counts, promised = counted_and_promised(Heun(), (GUIDE,), strength, 8, classifier_active=True)
    assert counts == promised == (15, 2 * guided_steps - 1, 2 * guided_steps - 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_those_that_take_place(name):
    n, wide = 4, (0.1, 10.0)  # two of the levels 80, 9.7, .47, .002
    inner = 2
    each = 2 * n - 1 if name == "heun" else n
    gated = inner * (2 if name == "heun" else 1)
    cases = [
        ((), constant(n), False, (each, 0, 0)),
        ((NULL,), constant(n, 1.0), False, (each, 0, 0)),
        ((NULL,), constant(n, 2.0), False, (2 * each, 0, 0)),
        ((NULL,), inside(n, [2.0], wide), False, (each + gated, 0, 0)),
        ((ICG,), constant(n, 2.0), False, (2 * each, 0, 0)),
        ((GUIDE,), constant(n, 2.0), False, (each, each, 0)),
        ((GUIDE_NULL,), constant(n, 0.0), False, (each, each, 0)),
        ((NULL, GUIDE, GUIDE_NULL), constant(n, 2.0, 3.0, 1.5), False, (2 * each, 2 * each, 0)),
        ((NULL, GUIDE), inside(n, [2.0, 1.0], wide), False, (each + gated, 0, 0)),
        ((), constant(n, scale=1.0), True, (each, 0, each)),
        ((), constant(n, scale=0.0), True, (each, 0, 0)),
        ((GUIDE,), inside(n, [2.0], wide, scale=1.0), True, (each, gated, gated)),
    ]
    for references, strength, classifier_active, expected in cases:
        cads = annealed(n) if classifier_active else None
        counts, promised = counted_and_promised(
            SAMPLERS[name], references, strength, n, classifier_active, cads
        )
        assert counts == promised == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_weight_1_and_scale_0_are_no_guidance_bit_for_bit(name):
    off = constant(4, 1, 1, 1, scale=0.0, combiner=Apg(0.0, -0.5, np.float32(1)))
    generate, _ = make(SAMPLERS[name], (NULL, GUIDE, GUIDE_NULL), classifier_active=True)
    with jax.disable_jit():
        np.testing.assert_array_equal(draw(generate, 4, off), draw(make(SAMPLERS[name])[0], 4))


def everything(num_steps, w=2.0):
    """A schedule, an interval, APG and rescaling of two references, and a classifier."""
    strength = constant(num_steps, w, 1.5, scale=0.7)
    strength.weights[:, 1] = w + 0.5
    return dataclasses.replace(
        strength,
        combiner=Apg(np.float32(0.2), np.float32(-0.5), np.float32(1.5)),
        rescale=np.float32(0.7),
    )


def test_numbers_are_values_and_compile_nothing_new():
    generate, _ = make(Heun(), (NULL, GUIDE), classifier_active=True)
    first = draw(generate, 6, everything(6), annealed(6))
    assert generate._advance._cache_size() == 2  # Heun's steps, and the last one
    changed = dataclasses.replace(
        everything(6, 3.0),
        scales=np.linspace(0.1, 2, 6, dtype=np.float32),
        combiner=Apg(np.float32(0.0), np.float32(0.3), np.float32(np.inf)),
        rescale=np.float32(0.1),
    )
    second = draw(generate, 6, changed, annealed(6, 0.1, 0.1, 0.2, 0.5))
    assert (first != second).any()
    assert generate._advance._cache_size() == 2
    # An interval adds the variant without references; another interval and shape add none.
    for low, high in [(1, 4), (2, 3), (3, 5)]:
        gated = everything(6)
        gated.weights[:, :low] = 1
        gated.weights[:, high:] = 1
        gated.scales[:] = np.arange(6)[::-1] + 1
        draw(generate, 6, gated, annealed(6))
    assert generate._advance._cache_size() == 4


@pytest.mark.parametrize(("devices", "enlarged"), [(1, False), (8, True)])
def test_together_and_apart_are_the_same(devices, enlarged):
    low_res = np.random.RandomState(0).standard_normal((5, 2, 2, 4)).astype(np.float32)
    results = []
    for together in (False, True):
        generate, _ = make(
            Ddim(),
            (NULL, GUIDE, GUIDE_NULL),
            devices=devices,
            together=together,
            low_res=low_res if enlarged else None,
        )
        results.append(draw(generate, 4, constant(4, 2.0, 1.5, 3.0), annealed(4), count=5))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_a_sample_is_the_same_in_any_batch_on_any_devices():
    """With everything that draws: churn, CADS, random labels."""
    strength, cads, results = constant(3, 2.0, 1.5), annealed(3), {}
    for devices, size in [(1, 64), (1, 7), (8, 64)]:
        generate, _ = make(Heun(churn=1.0), (ICG, GUIDE), devices=devices)
        numbers = np.arange(14 if size == 7 else 64)
        results[devices, size] = draw(generate, 3, strength, cads, batch_size=size, numbers=numbers)
    whole = results[1, 64]
    assert np.std(whole, axis=0).min() > 1e-3
    alone, _ = make(Heun(churn=1.0), (ICG, GUIDE))
    with jax.disable_jit():
        (x,) = draw(alone, 3, strength, cads, numbers=[63])
    np.testing.assert_allclose(x, whole[63], atol=2e-5)
    for case, x in results.items():
        np.testing.assert_allclose(x, whole[: len(x)], atol=2e-5, err_msg=str(case))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("references", [(), (NULL,), (GUIDE,), (ICG, GUIDE)])
def test_cads_changes_samples_alone_with_cfg_and_with_a_guide(name, references):
    generate, _ = make(SAMPLERS[name], references)
    strength = constant(4, *[2.0] * len(references))
    with jax.disable_jit():
        plain = draw(generate, 4, strength)
        moved = draw(generate, 4, strength, annealed(4))
        kept = draw(generate, 4, strength, annealed(4, 1.0, 1.0))  # gamma is 1 at all steps
    np.testing.assert_array_equal(kept, plain)
    assert np.isfinite(moved).all()
    assert (np.abs(plain - moved).reshape(3, -1).max(1) > 1e-4).all()


def test_heuns_two_evaluations_are_told_the_same_and_steps_are_not():
    told, n = [], 3

    class Noted(Stub):
        def apply(self, params, x, time, embedding, low_res=None):
            told.append(np.asarray(embedding))
            return jnp.zeros_like(x)

    generate, _ = make(Heun())
    generate = dataclasses.replace(generate, network=Noted())
    with jax.disable_jit():
        draw(generate, n, None, annealed(n, 0.0, 0.0), count=2)
    assert len(told) == 5
    np.testing.assert_array_equal(told[0], told[1])
    np.testing.assert_array_equal(told[2], told[3])
    assert (told[1] != told[2]).all()
    assert (told[3] != told[4]).all()
    assert (told[0][0] != told[0][1]).all()
