import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.models.network import Network
from jaxdiff.models.unet import UNet, UNetSpec

SMALL = {
    "image_size": 8,
    "in_channels": 1,
    "out_channels": 2,
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 32,
    "num_classes": 10,
}
ONE_LEVEL = {"channel_mult": (1,), "attention_resolutions": ()}


def make(**changes):
    spec = UNetSpec(**{**SMALL, **changes})
    return Network(lambda rngs: UNet(spec, rngs=rngs), spec)


def random_params(network, seed=0):
    """Parameters without zeros, so that every part of the network matters."""
    leaves, tree = jax.tree.flatten(network.shapes)
    random = np.random.RandomState(seed)
    return tree.unflatten(
        [jnp.asarray(random.standard_normal(leaf.shape) * 0.1, leaf.dtype) for leaf in leaves]
    )


def inputs(size=8, channels=1, batch=3):
    random = np.random.RandomState(1)
    x = jnp.asarray(random.standard_normal((batch, size, size, channels)), jnp.float32)
    return x, jnp.arange(batch) * 100.0, jnp.arange(batch, dtype=jnp.int32)


def run(network, params, x, time, labels, **kwargs):
    apply = jax.jit(lambda p, e: network.apply(p, x, time, e, **kwargs))
    return apply(params, network.embed(params, labels))


# Tensors and parameters of the released models, counted from the published weights.
ADM = {"in_channels": 3, "out_channels": 6, "attention_resolutions": (32, 16, 8)}
RELEASED = {
    "64": (
        295_904_454,
        541,
        {"image_size": 64, "channels": 192, "channel_mult": (1, 2, 3, 4), "num_res_blocks": 3},
    ),
    "256": (
        553_838_086,
        567,
        {
            "image_size": 256,
            "channels": 256,
            "channel_mult": (1, 1, 2, 2, 4, 4),
            "num_res_blocks": 2,
        },
    ),
    "512": (
        558_997_638,
        645,
        {
            "image_size": 512,
            "channels": 256,
            "channel_mult": (0.5, 1, 1, 2, 2, 4, 4),
            "num_res_blocks": 2,
        },
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes(name):
    parameters, tensors, changes = RELEASED[name]
    network = make(**{**ADM, **changes, "head_channels": 64, "num_classes": 1000})
    leaves = jax.tree.leaves(network.shapes)
    assert sum(leaf.size for leaf in leaves) == parameters
    assert len(leaves) == tensors


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 12, "attention_resolutions": (6,)},
        {"in_channels": 3, "out_channels": 6, "image_size": 16, "attention_resolutions": (16, 8)},
        {"num_classes": None, "out_channels": 1},
        {"channel_mult": (1,), "attention_resolutions": (), "image_size": 7},
        {"channel_mult": (0.5, 1, 1.5), "channels": 64, "attention_resolutions": ()},
    ],
    ids=["12px", "rgb", "unconditional", "one level, odd size", "fractional"],
)
def test_output_has_the_input_s_size_and_the_asked_channels(changes):
    network = make(**changes)
    spec = network.spec
    x, time, labels = inputs(spec.image_size, spec.in_channels)
    output = run(network, random_params(network), x, time, labels)
    assert output.shape == (3, spec.image_size, spec.image_size, spec.out_channels)
    assert output.dtype == jnp.float32
    assert np.isfinite(output).all()


def test_a_fresh_network_returns_zeros():
    network = make(**ONE_LEVEL)
    params = jax.jit(network.init)(jax.random.key(0))
    np.testing.assert_array_equal(run(network, params, *inputs()), np.zeros((3, 8, 8, 2)))


def test_time_label_and_image_all_matter():
    network = make()
    params = random_params(network)
    x, time, labels = inputs()
    base = run(network, params, x, time, labels)
    assert np.abs(run(network, params, x, time + 1, labels) - base).max() > 1e-4
    assert np.abs(run(network, params, x, time, labels + 1) - base).max() > 1e-4
    assert np.abs(run(network, params, x + 0.1, time, labels) - base).max() > 1e-4


def test_the_null_class_is_one_more_row():
    assert make().shapes["labels"]["embedding"].shape == (10, 128)
    assert make(null_class=True).shapes["labels"]["embedding"].shape == (11, 128)


def test_samples_of_a_batch_do_not_mix():
    network = make(attention_resolutions=(8,), channel_mult=(1,))
    params = random_params(network)
    x, time, labels = inputs()
    together = run(network, params, x, time, labels)
    alone = run(network, params, x[1:2], time[1:2], labels[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5 * float(jnp.abs(together).max()))


def test_bfloat16_computes_nearly_the_same_with_float32_parameters():
    exact, rough = make(), make(dtype=jnp.bfloat16)
    params = random_params(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(rough.shapes)} == {jnp.dtype("float32")}
    a, b = run(exact, params, *inputs()), run(rough, params, *inputs())
    assert b.dtype == jnp.float32
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert 1e-5 < error < 3e-2  # not float32 in disguise, and not wrong


def test_remat_keeps_less_and_computes_the_same():
    x, time, labels = inputs(batch=4)

    def loss(network):
        return lambda p: jnp.mean(network.apply(p, x, time, network.embed(p, labels)) ** 2)

    plain, remat = (make(**ONE_LEVEL, remat=remat) for remat in (False, True))
    params = random_params(plain)

    def kept(network):
        residuals = jax.eval_shape(lambda p: jax.vjp(loss(network), p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    fixed = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    assert kept(remat) - fixed < 0.25 * (kept(plain) - fixed)
    a, b = (jax.jit(jax.grad(loss(network)))(params) for network in (plain, remat))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(a))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * scale)


def test_dropout_is_drawn_from_the_samples_keys():
    network = make(**ONE_LEVEL)
    params = random_params(network)
    x, time, labels = inputs()
    keys = jax.random.split(jax.random.key(0), 3)
    base = run(network, params, x, time, labels)
    dropped = run(network, params, x, time, labels, drop_rate=0.2, drop_keys=keys)
    assert np.abs(dropped - base).max() > 1e-3
    alone = run(network, params, x[2:], time[2:], labels[2:], drop_rate=0.2, drop_keys=keys[2:])
    np.testing.assert_allclose(dropped[2:], alone, atol=1e-5 * float(jnp.abs(dropped).max()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 9}, "9.*multiple of 2"),
        ({"attention_resolutions": (5,)}, "5.*\\[8, 4\\]"),
        ({"channels": 40}, "40.*multiple of 32"),
        ({"head_channels": 48}, "48.*64 wide"),
    ],
)
def test_impossible_networks_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)
