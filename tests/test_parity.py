"""The reference implementation's networks, losses, samples and likelihoods, from the same weights.

The folder of golden values is tests/goldens, or the one that JAXDIFF_GOLDENS names. Every case that
it holds is compared, by its format (tests/goldens/README.md).
"""

import dataclasses
import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, DDPM
from jaxdiff.diffusion import schedules
from jaxdiff.diffusion.adm import AdmProcess, Loss
from jaxdiff.diffusion.respacing import respace
from jaxdiff.diffusion.variational_bound import bits_per_dimension
from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.interop import openai
from jaxdiff.interop.openai_names import tensors
from jaxdiff.models.condition import Condition
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddim_encode import DdimEncoder
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.tensor_files import torch_file
from tests import golden_format
from tests.golden_format import nhwc

# Largest difference allowed, in units of the largest reference value.
TOLERANCE = {"output": 1e-5, "logits": 1e-5, "grad_log_prob": 2e-5}
IMPORTERS = {
    "UNetModel": openai.unet,
    "SuperResModel": openai.superres,
    "EncoderUNetModel": openai.classifier,
}
NETWORKS = {
    "UNetModel": openai.unet_network,
    "SuperResModel": lambda **options: openai.unet_network(super_resolution=True, **options),
    "EncoderUNetModel": openai.classifier_network,
}
CASES = golden_format.names("unet_*", "superres*", "classifier_*")


@cache
def computed(name):
    """What we compute for a case, and what is stored: {key: array} each, images [N, H, W, C]."""
    case, arrays = golden_format.load(name)
    images = {key: golden_format.nhwc(a) if a.ndim == 4 else a for key, a in arrays.items()}
    x, time, labels = images["x"], images["timesteps"], images["labels"]
    state_dict = golden_format.seeded(case["state_dict"])
    apply, params = IMPORTERS[case["constructor"]](state_dict, **case["kwargs"])
    if case["constructor"] != "EncoderUNetModel":
        low_res = {"low_res": images["low_res"]} if "low_res" in images else {}
        return {"output": jax.jit(apply)(params, x, time, labels, **low_res)}, images

    def log_prob(x):
        logits = apply(params, x, time)
        return jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels].sum(), logits

    gradient, logits = jax.jit(jax.grad(log_prob, has_aux=True))(x)
    return {"logits": logits, "grad_log_prob": gradient}, images


def assert_close(got, expected):
    for key, array in got.items():
        assert array.dtype == jnp.float32
        assert golden_format.error(array, expected[key]) <= TOLERANCE[key], key


@pytest.mark.parametrize("name", CASES)
def test_network(name):
    assert_close(*computed(name))


@pytest.mark.parametrize("name", CASES)
def test_a_value_that_is_off_by_two_percent_is_noticed(name):
    got, expected = computed(name)
    for key in got:
        spoilt = expected[key].copy()
        spoilt.flat[spoilt.size // 3] += 0.02 * np.abs(spoilt).max()
        with pytest.raises(AssertionError, match=key):
            assert_close(got, {**expected, key: spoilt})


@pytest.mark.parametrize("name", CASES)
def test_export_returns_what_was_imported(name):
    case, _ = golden_format.load(name)
    network = NETWORKS[case["constructor"]](**case["kwargs"])
    state_dict = golden_format.seeded(case["state_dict"])
    order = {"new_order": case["kwargs"].get("use_new_attention_order", False)}
    params = openai.from_state_dict(network, state_dict, **order)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, network.shapes)
    exported = openai.to_state_dict(network, params, **order)
    assert exported.keys() == state_dict.keys()
    for key, array in state_dict.items():
        np.testing.assert_array_equal(exported[key], array, strict=True)


@pytest.mark.parametrize("path", sorted(golden_format.FOLDER.glob("*.pt")), ids=lambda p: p.name)
def test_pytorch_s_files_hold_the_seeded_weights(path):
    case, _ = golden_format.load(path.stem)
    state_dict = torch_file.read(path)
    expected = golden_format.seeded(case["state_dict"])
    assert list(state_dict) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(state_dict[key], array, strict=True)


LOSSES = {"MSE": "hybrid_unscaled", "RESCALED_MSE": "hybrid", "RESCALED_KL": "vlb", "KL": "vlb"}
HAS_DIFFUSION = (golden_format.FOLDER / "diffusion.json").exists()
CASE, ARRAYS = golden_format.load("diffusion") if HAS_DIFFUSION else ({"variants": {}}, {})
VARIANTS = CASE["variants"]


def stored(name):
    """The reference's results of a variant, by their names."""
    return {
        key.removeprefix(f"{name}/"): array
        for key, array in ARRAYS.items()
        if key.startswith(f"{name}/") and not key.endswith("/noise")
    }


@cache
def network(name):
    """(apply, params) of `unet`, `unet_fixed_variance` or `classifier`, with seeded weights."""
    is_classifier = name == "classifier"
    make = openai.classifier_network if is_classifier else openai.unet_network
    table = tensors(make(**CASE[name]), new_order=CASE[name].get("use_new_attention_order", False))
    state_dict = golden_format.seeded({tensor.name: tensor.their_shape for tensor in table})
    return (openai.classifier if is_classifier else openai.unet)(state_dict, **CASE[name])


class UnscaledBound(AdmProcess):
    """A process with the loss KL, which no run of ours has."""

    loss = Loss(square=False, bound=lambda num_timesteps: 1.0)


def process_of(variant):
    loss = variant.get("loss", "RESCALED_MSE")
    make = UnscaledBound if loss == "KL" else AdmProcess
    return make(
        ADM(
            schedule=variant.get("schedule", "cosine"),
            prediction=variant.get("predict", "eps"),
            variance=variant.get("variance", "learned_range"),
            loss=LOSSES[loss],
            rescale_timesteps=variant.get("rescale_timesteps", False),
        )
    )


def noises(variant, count):
    """The noise of every step: [count, N, H, W, C]."""
    shape = ARRAYS["x_start"].shape
    seeds = range(variant.get("seed", 5000), variant.get("seed", 5000) + count)
    draws = (np.random.RandomState(seed).standard_normal(shape) for seed in seeds)
    return jnp.stack([nhwc(draw.astype(np.float32)) for draw in draws])


def run(name):
    """Our results of a variant, by the reference's names; one jitted call."""
    variant = VARIANTS[name]
    process, labels = process_of(variant), jnp.asarray(ARRAYS["labels"])
    apply, params = network("unet" if process.variance.learned else "unet_fixed_variance")
    classify, classifier_params = network("classifier") if "scale" in variant else (None, None)

    def results(params, classifier_params, scale):
        def unet(x, time, condition, dropout=None):
            return apply(params, x, time, labels)

        guidance = Guidance(main=NetworkBranch(process.denoiser(unet)))
        if classify:
            classifier = process.classifier(lambda x, time: classify(classifier_params, x, time))
            scales = jnp.full(process.config.num_timesteps, scale)
            guidance = dataclasses.replace(
                guidance,
                params=GuidanceParams(jnp.ones((0, process.config.num_timesteps)), scales),
                gradient=label_gradient(classifier, labels),
            )
        return KINDS[variant["kind"]](name, variant, process, unet, guidance)

    return jax.jit(results)(params, classifier_params, variant.get("scale", 0.0))


def run_loss(name, variant, process, unet, guidance):
    draws = {"t": jnp.asarray(variant["t"]), "noise": nhwc(ARRAYS[f"{name}/noise"])}
    x0 = jnp.asarray(nhwc(ARRAYS["x_start"]))
    return process.losses(unet, x0, Condition(), draws, steps=variant["respacing"])[0]


def run_ddpm(name, variant, process, unet, guidance):
    sampler = DdpmSampler(DDPM(clip=variant.get("clip", True)))
    return {"samples": loop(sampler, "x_T", variant, process, guidance)}


def run_ddim(name, variant, process, unet, guidance):
    sampler = DdimSampler(DDIM(eta=variant.get("eta", 0.0), clip=variant.get("clip", True)))
    return {"samples": loop(sampler, "x_T", variant, process, guidance)}


def run_reverse(name, variant, process, unet, guidance):
    sampler = DdimEncoder(DDIM(clip=variant.get("clip", True)))
    return {"latent": loop(sampler, "x_start", variant, process, guidance)}


def loop(sampler, start, variant, process, guidance):
    """Every step of a sampler, fed with the reference's noise: [N, C, H, W]."""
    grid = sampler.grid(process.levels(variant["respacing"]))
    noise = noises(variant, grid.num_steps)

    def denoise(x, level, state):
        return guidance.denoise(x, level, state, guidance.decide(0, None))

    def step(i, values):
        x, carry, state = values
        return sampler.step(denoise, grid, i, x, noise[i], carry, state)

    x = jnp.asarray(nhwc(ARRAYS[start]))
    values = (x, sampler.init(x), guidance.init(x.shape))
    x, _, _ = jax.lax.fori_loop(0, grid.num_steps, step, values)
    return jnp.moveaxis(x, -1, 1)


def run_bpd(name, variant, process, unet, guidance):
    levels = process.levels(variant["respacing"])
    noise = noises(variant, len(levels.sigma) - 1)

    def denoise(x, level):
        return guidance.denoise(x, level, (), guidance.decide(0, None))[0]

    x0 = jnp.asarray(nhwc(ARRAYS["x_start"]))
    clip = variant.get("clip", True)
    return bits_per_dimension(denoise, levels, x0, lambda i: noise[i], clip)


KINDS = {
    "loss": run_loss,
    "ddpm": run_ddpm,
    "ddim": run_ddim,
    "reverse": run_reverse,
    "bpd": run_bpd,
}


def excess(variant, key, got, reference):
    """The error of one stored result, in units of what is allowed."""
    got, reference = np.asarray(got, np.float64), np.asarray(reference, np.float64)
    assert got.shape == reference.shape
    difference = np.abs(got - reference)
    if variant["kind"] in ("ddpm", "ddim", "reverse"):
        error = np.sqrt((difference**2).mean() / (reference**2).mean())
        sampling = 3e-4 if variant.get("clip", True) else 1e-5
        return error / (1e-4 if variant["kind"] == "reverse" else sampling)
    if key == "prior_bpd":
        return difference.max() / 1e-7
    relative = np.full(reference.shape, 1e-3 if key == "xstart_mse" else 3e-4)
    if variant["kind"] == "loss" and key != "mse" and not variant["respacing"]:
        # The reference cancels in the bound's first of all timesteps.
        has_bound = process_of(variant).terms != ("loss", "mse")
        relative[(np.asarray(variant["t"]) == 0) & has_bound] = 2e-2
    return (difference / (relative * np.abs(reference) + 1e-6)).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_equals_the_reference(name):
    got, reference = run(name), stored(name)
    assert reference
    errors = {key: excess(VARIANTS[name], key, got[key], reference[key]) for key in reference}
    print(name, {key: f"{error:.3f}" for key, error in errors.items()})
    # Not a number is no small error.
    assert all(error <= 1 for error in errors.values()), errors


@pytest.mark.parametrize("name", VARIANTS)
def test_a_result_that_is_off_by_2_percent_is_rejected(name):
    for key, reference in stored(name).items():
        # The prior's bits are next to nothing, and compared absolutely.
        if key != "prior_bpd":
            assert excess(VARIANTS[name], key, 1.02 * reference, reference) > 1, key
            assert not excess(VARIANTS[name], key, np.nan * reference, reference) <= 1, key


def stored_file(name):
    path = golden_format.FOLDER / name
    if not path.exists():
        pytest.skip(f"{golden_format.FOLDER} holds no {name}")
    return path


def test_betas_equal_the_reference():
    with np.load(stored_file("schedules.npz")) as arrays:
        assert len(arrays)
        for name, expected in arrays.items():
            _, schedule, count = name.split("/")
            betas = getattr(schedules, schedule)(int(count))
            np.testing.assert_allclose(betas, expected, rtol=0, atol=1e-12)


def test_respacing_equals_the_reference():
    expected = json.loads(stored_file("respacing.json").read_text())
    assert expected
    for name, kept in expected.items():
        count, _, spec = name.partition("/")
        assert respace(int(count), spec) == kept, name
