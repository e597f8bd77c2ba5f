import numpy as np
import pytest

from jaxdiff.data.images import area_means, fit, to_float


def test_an_image_that_fits_is_untouched():
    image = np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)
    assert fit(image, 8, 3) is image


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (100, 33, 3), (64, 64, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_becomes_the_shape_asked_for(shape, channels):
    image = np.full(shape, 77, np.uint8)
    fitted = fit(image, 16, channels)
    assert fitted.shape == (16, 16, channels)
    np.testing.assert_array_equal(fitted, 77)


def test_the_middle_is_kept():
    image = np.zeros((16, 48, 1), np.uint8)
    image[:, 16:32] = 255
    np.testing.assert_array_equal(fit(image, 16, 1), 255)


def test_halving_is_a_box_filter():
    image = np.random.RandomState(0).randint(0, 256, (16, 16, 1)).astype(np.uint8)
    expected = image.reshape(8, 2, 8, 2, 1).astype(float).mean((1, 3))
    # Pillow rounds after each of the two directions.
    np.testing.assert_allclose(fit(image, 8, 1), expected, atol=1)


def test_grey_and_colour_convert():
    grey = fit(np.full((8, 8, 1), 9, np.uint8), 8, 3)
    np.testing.assert_array_equal(grey, 9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (27, 31), (1, 32)])
def test_padding_frames_with_black(shape, channels):
    image = np.random.RandomState(0).randint(1, 256, (*shape, channels)).astype(np.uint8)
    margins = [((32 - side) // 2, (32 - side) - (32 - side) // 2) for side in shape]
    expected = np.pad(image, (*margins, (0, 0)))
    np.testing.assert_array_equal(fit(image, 32, channels, "pad"), expected)


def test_padding_crops_what_is_larger_and_scales_nothing():
    image = np.random.RandomState(0).randint(1, 256, (5, 41, 1)).astype(np.uint8)
    expected = np.pad(image[:, 16:25], ((2, 2), (0, 0), (0, 0)))
    np.testing.assert_array_equal(fit(image, 9, 1, "pad"), expected)


def test_bytes_become_the_range_from_minus_one_to_one():
    x = to_float(np.arange(256, dtype=np.uint8))
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)


def test_what_are_not_bytes_stays_as_it_is():
    points = np.array([[-2.0, 3.0]], np.float32)
    assert to_float(points) is points


def test_area_means_are_those_of_squares():
    images = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    means = area_means(images, 4)
    assert means.dtype == np.float32
    for i, j in np.ndindex(4, 4):
        square = images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] / 127.5 - 1
        np.testing.assert_allclose(means[:, i, j], square.mean((1, 2)), atol=1e-6)
