import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.models import layers


def test_timestep_embedding_is_cosines_then_sines_of_falling_frequencies():
    t = np.array([0.0, 1.0, 7.25, 999.0])
    got = layers.timestep_embedding(jnp.asarray(t), 6)
    frequency = 10_000.0 ** -(np.arange(3) / 3)
    expected = np.concatenate([np.cos(t[:, None] * frequency), np.sin(t[:, None] * frequency)], 1)
    # 999 radians in float32 are known to about 6e-5.
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_timestep_embedding_pads_odd_widths_with_a_zero():
    got = layers.timestep_embedding(jnp.array([3.0]), 5)
    assert got.shape == (1, 5)
    assert got[0, -1] == 0


def test_upsample_then_downsample_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    assert layers.upsample(x).shape == (2, 8, 12, 3)
    np.testing.assert_allclose(layers.downsample(layers.upsample(x)), x, rtol=1e-6)


def test_images_are_resized_by_interpolating_between_the_centres_of_pixels():
    x = np.random.RandomState(0).standard_normal((2, 3, 4, 2))

    def along(x, axis, size):
        n = x.shape[axis]
        at = (np.arange(size) + 0.5) * n / size - 0.5
        # np.interp repeats the edges, as images do.
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(n), line), axis, x)

    got = layers.resized(jnp.asarray(x, jnp.float32), 12, 10)
    np.testing.assert_allclose(got, along(along(x, 1, 12), 2, 10), atol=1e-6)


@pytest.mark.parametrize("size", [6, 7])
def test_convolutions_of_stride_two_have_a_margin_on_both_sides(size):
    layer = layers.Conv(1, 1, stride=2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, size, size, 1))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for row in range(3):
        for column in range(3):
            kernel = jnp.zeros((3, 3, 1, 1)).at[row, column].set(1)
            layer.kernel[...], layer.bias[...] = kernel, jnp.zeros(1)
            expected = padded[:, row : row + size : 2, column : column + size : 2]
            np.testing.assert_array_equal(layer(x), expected)


def test_dropout_masks_belong_to_samples_not_batches():
    x = jnp.ones((5, 4, 4, 8))
    keys = jax.random.split(jax.random.key(1), 5)
    together = layers.drop(x, 0.3, keys)
    for n in (0, 4):
        alone = layers.drop(x[n : n + 1], 0.3, keys[n : n + 1])
        np.testing.assert_array_equal(together[n : n + 1], alone)
    assert not np.array_equal(together[0], together[1])


def test_dropout_keeps_the_mean_and_the_share():
    x = jnp.ones((16, 64, 64))
    dropped = layers.drop(x, 0.25, jax.random.split(jax.random.key(2), 16))
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    assert abs(float(dropped.mean()) - 1) < 0.01


def test_zero_layers_start_at_zero_and_others_within_the_bound_of_their_fan_in():
    layer = layers.Conv(8, 16, dtype=jnp.float32, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(8 * 9)
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.8 * bound < np.abs(values).max() <= bound
    zero = layers.Linear(8, 16, dtype=jnp.float32, rngs=nnx.Rngs(0), zero=True)
    assert not np.any(zero.kernel[...])
    assert not np.any(zero.bias[...])
