"""Guided samples by number, of a network that costs nothing to compile and counts its calls."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, CADS, DDIM, DDPM, DPMpp, Heun, Image, Label
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.guidance.cads import Cads
from jaxdiff.guidance.combiners import Apg
from jaxdiff.guidance.equation import GuidanceParams
from jaxdiff.guidance.weights import Steps, within
from jaxdiff.models.codecs import Pixels
from jaxdiff.models.condition import Condition
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.heun import HeunSampler
from jaxdiff.sampling import pipeline as pipeline_lib
from jaxdiff.sampling.pipeline import ConditionKind, GuidanceReference, Params, Pipeline
from tests.closed_forms import edm_levels

CLASSES, SHAPE = 10, (2, 2, 4)
PROCESS = AdmProcess(ADM(variance="fixed_small"))
HEUN, DDIM_SAMPLER = HeunSampler(Heun()), DdimSampler(DDIM())
SAMPLERS = {
    "ddpm": DdpmSampler(DDPM()),
    "ddim": DDIM_SAMPLER,
    "heun": HEUN,
    "dpmpp": DpmppSampler(DPMpp()),
}
NULL, ICG = GuidanceReference(ConditionKind.NULL), GuidanceReference(ConditionKind.RANDOM)
GUIDE = GuidanceReference(ConditionKind.CONDITION, 0)
GUIDE_NULL = GuidanceReference(ConditionKind.NULL, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Stub:
    """A network of a few operations; parameters are a gain and a table of embeddings."""

    calls: list | None = None
    conditions: tuple = (Label(CLASSES),)

    @property
    def config(self):
        return SimpleNamespace(conditions=self.conditions, label=Label(CLASSES))

    @property
    def signature(self):
        return SimpleNamespace(shape=SHAPE)

    def embed(self, params, cond):
        return Condition(jnp.asarray(params["table"])[cond["label"]], cond.get("image"))

    def null(self, params, cond):
        nulls = {name: jnp.zeros_like(array) for name, array in cond.items()}
        return self.embed(params, {**nulls, "label": jnp.full_like(cond["label"], CLASSES)})

    def _note(self):
        if self.calls is not None:
            self.calls.append(1)

    def apply(self, params, x, time, condition, dropout=None):
        self._note()
        known = condition.vector[:, None, None, :4]
        if condition.image is not None:
            known = known + condition.image
        return jnp.tanh(params["gain"] * x + known + jnp.sin(time / 300)[:, None, None, None])


class StubClassifier(Stub):
    def apply(self, params, x, time):
        self._note()
        return x.reshape(len(x), -1)[:, :CLASSES] ** 2


def params_of(gain, seed):
    table = np.random.RandomState(seed).standard_normal((CLASSES + 1, 8))
    return {"gain": np.float32(gain), "table": np.float32(table)}


PARAMS = Params(params_of(1.0, 0), (params_of(0.3, 1),), params_of(0.0, 2))


def make(sampler, references=(), counted=False, classifier_active=False, devices=1, **fields):
    """(Pipeline, the calls of main network, guide and classifier)."""
    calls = [[], [], []] if counted else [None] * 3
    pipeline = Pipeline(
        **{
            "network": Stub(calls[0]),
            "process": PROCESS,
            "sampler": sampler,
            "codec": Pixels(),
            "mesh": make_mesh(devices=jax.devices()[:devices]),
            "guides": ((Stub(calls[1]), PROCESS, 0.0),),
            "references": references,
            "classifier": StubClassifier(calls[2]) if classifier_active else None,
            **fields,
        }
    )
    return pipeline, calls


def constant(num_steps, *weights, scale=None, **fields):
    rows = np.float32(np.reshape(weights, (-1, 1))) * np.ones((1, num_steps), np.float32)
    return GuidanceParams(
        rows, None if scale is None else np.full(num_steps, scale, np.float32), **fields
    )


def annealed(num_steps, tau1=0.3, tau2=0.9, scale=0.5, psi=1.0):
    time = 1 - (np.arange(num_steps) + 0.5) / num_steps
    return Cads.of(CADS(tau1, tau2, scale, psi), time)


def draw(
    pipeline, num_steps=6, guidance=None, cads=None, count=3, batch_size=None, numbers=None, **given
):
    """Samples x [n, ...]; `given`: conditions of samples by number beside the label."""
    grid = pipeline.sampler.grid(edm_levels(num_steps, sigma_max=4.0))
    numbers = np.arange(count) if numbers is None else np.array(numbers)
    cond = {"label": np.int32(numbers % CLASSES), **{n: a[numbers] for n, a in given.items()}}
    size = batch_size or len(numbers)
    return pipeline(PARAMS, grid, 5, numbers, size, cond, guidance, cads)["x"]


def counted_and_promised(
    sampler, references, guidance, num_steps, classifier_active=False, cads=None
):
    """Evaluations of the main network, the guide and the classifier."""
    pipeline, calls = make(sampler, references, counted=True, classifier_active=classifier_active)
    with jax.disable_jit():
        draw(pipeline, num_steps, guidance, cads, count=1)
    return tuple(map(len, calls)), pipeline.evaluations(num_steps, guidance)


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
    counts, promised = counted_and_promised(HEUN, (GUIDE,), inside(32, [2.1]), 32)
    assert counts == promised == (63, 12, 0)


def test_an_interval_that_holds_the_last_step_has_one_evaluation_there():
    guidance = inside(8, [2.0], (0.0, 0.05), scale=1.0)
    guided_steps = int((guidance.weights != 1).sum())
    counts, promised = counted_and_promised(HEUN, (GUIDE,), guidance, 8, classifier_active=True)
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
    # Which evaluations are skipped does not depend on the sampler; how many a step has does.
    for references, guidance, classifier_active, expected in (
        cases if name in ("heun", "ddim") else cases[-1:]
    ):
        cads = annealed(n) if classifier_active else None
        counts, promised = counted_and_promised(
            SAMPLERS[name], references, guidance, n, classifier_active, cads
        )
        assert counts == promised == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_weight_1_and_scale_0_are_no_guidance_bit_for_bit(name):
    off = constant(4, 1, 1, 1, scale=0.0, combiner=Apg(0.0, -0.5, np.float32(1)))
    pipeline, _ = make(SAMPLERS[name], (NULL, GUIDE, GUIDE_NULL), classifier_active=True)
    with jax.disable_jit():
        np.testing.assert_array_equal(draw(pipeline, 4, off), draw(make(SAMPLERS[name])[0], 4))


def everything(num_steps, w=2.0):
    """A schedule, an interval, APG and rescaling of two references, and a classifier."""
    guidance = constant(num_steps, w, 1.5, scale=0.7)
    guidance.weights[:, 1] = w + 0.5
    return dataclasses.replace(
        guidance,
        combiner=Apg(np.float32(0.2), np.float32(-0.5), np.float32(1.5)),
        rescale=np.float32(0.7),
    )


def test_numbers_are_values_and_compile_nothing_new():
    pipeline, _ = make(HEUN, (NULL, GUIDE), classifier_active=True)
    before = pipeline_lib._advance._cache_size()
    compiled = lambda: pipeline_lib._advance._cache_size() - before  # noqa: E731
    first = draw(pipeline, 6, everything(6), annealed(6))
    assert compiled() == 2  # Heun's steps, and the last one
    changed = dataclasses.replace(
        everything(6, 3.0),
        scales=np.linspace(0.1, 2, 6, dtype=np.float32),
        combiner=Apg(np.float32(0.0), np.float32(0.3), np.float32(np.inf)),
        rescale=np.float32(0.1),
    )
    # Nor does another pipeline of the same parts.
    same = dataclasses.replace(pipeline)
    second = draw(same, 6, changed, annealed(6, 0.1, 0.1, 0.2, 0.5))
    assert (first != second).any()
    assert compiled() == 2
    # An interval adds the variant without references; another interval and shape add none.
    for low, high in [(1, 4), (2, 3), (3, 5)]:
        gated = everything(6)
        gated.weights[:, :low] = 1
        gated.weights[:, high:] = 1
        gated.scales[:] = np.arange(6)[::-1] + 1
        draw(pipeline, 6, gated, annealed(6))
    assert compiled() == 4


def test_together_and_apart_are_the_same_on_two_devices():
    image = np.random.RandomState(0).standard_normal((5, *SHAPE)).astype(np.float32)
    results = []
    for together in (False, True):
        pipeline, _ = make(
            DDIM_SAMPLER,
            (NULL, ICG, GUIDE, GUIDE_NULL),
            devices=2,
            together=together,
            network=Stub(conditions=(Label(CLASSES), Image(4))),
        )
        weights = constant(3, 2.0, 1.2, 1.5, 3.0)
        results.append(draw(pipeline, 3, weights, annealed(3), count=5, image=image))
    # Guidance by four references multiplies what is rounded in another way.
    np.testing.assert_allclose(*results, atol=1e-5)


def test_conditions_are_embedded_once_and_images_come_from_the_codec():
    embedded = []

    class Noted(Stub):
        def embed(self, params, cond):
            embedded.append(1)
            return super().embed(params, cond)

    pipeline, _ = make(DDIM_SAMPLER, (NULL, GUIDE), network=Noted())
    grid = pipeline.sampler.grid(edm_levels(5, sigma_max=4.0))
    with jax.disable_jit():
        found = pipeline(
            PARAMS, grid, 5, np.arange(3), 4, {"label": np.arange(3)}, constant(5, 2.0, 2.0)
        )
    assert len(embedded) == 2  # the condition and the null one; the guide has its own network
    assert found["finite"].tolist() == [True] * 3
    expected = np.round((np.clip(found["x"], -1, 1) + 1) * 127.5)
    np.testing.assert_array_equal(found["images"], expected.astype(np.uint8))


def test_a_sample_is_the_same_in_any_batch_on_any_devices():
    """With everything that draws: churn, CADS, random labels."""
    guidance, cads, results = constant(3, 2.0, 1.5), annealed(3), {}
    for devices, size in [(1, 64), (2, 7)]:
        pipeline, _ = make(HeunSampler(Heun(churn=1.0)), (ICG, GUIDE), devices=devices)
        numbers = np.arange(14 if size == 7 else 64)
        results[devices, size] = draw(pipeline, 3, guidance, cads, batch_size=size, numbers=numbers)
    whole = results[1, 64]
    assert np.std(whole, axis=0).min() > 1e-3
    alone, _ = make(HeunSampler(Heun(churn=1.0)), (ICG, GUIDE))
    with jax.disable_jit():
        (x,) = draw(alone, 3, guidance, cads, numbers=[63])
    np.testing.assert_allclose(x, whole[63], atol=2e-5)
    for case, x in results.items():
        np.testing.assert_allclose(x, whole[: len(x)], atol=2e-5, err_msg=str(case))


@pytest.mark.parametrize(
    ("name", "references"),
    [("ddpm", ()), ("ddim", (NULL,)), ("heun", (ICG, GUIDE)), ("dpmpp", (GUIDE,))],
)
def test_cads_changes_samples_alone_with_cfg_and_with_a_guide(name, references):
    pipeline, _ = make(SAMPLERS[name], references)
    guidance = constant(4, *[2.0] * len(references))
    with jax.disable_jit():
        plain = draw(pipeline, 4, guidance)
        moved = draw(pipeline, 4, guidance, annealed(4))
        kept = draw(pipeline, 4, guidance, annealed(4, 1.0, 1.0))  # gamma is 1 at all steps
    np.testing.assert_array_equal(kept, plain)
    assert np.isfinite(moved).all()
    assert (np.abs(plain - moved).reshape(3, -1).max(1) > 1e-4).all()


def test_heuns_two_evaluations_have_one_condition_and_steps_have_others():
    seen, n = [], 3

    class Noted(Stub):
        def apply(self, params, x, time, condition, dropout=None):
            seen.append(np.asarray(condition.vector))
            return jnp.zeros_like(x)

    pipeline, _ = make(HEUN, network=Noted())
    with jax.disable_jit():
        draw(pipeline, n, None, annealed(n, 0.0, 0.0), count=2)
    assert len(seen) == 5
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[2], seen[3])
    assert (seen[1] != seen[2]).all()
    assert (seen[3] != seen[4]).all()
    assert (seen[0][0] != seen[0][1]).all()
