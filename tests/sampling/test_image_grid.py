import numpy as np

from jaxdiff.sampling import image_grid


def test_points_are_drawn_where_they_are():
    corners = np.array([[-1, -1], [1, 1], [1, -1], [-1, 1]], float)
    only_right = np.concatenate([corners, np.random.default_rng(0).uniform(0.2, 0.8, (500, 2))])
    picture = image_grid.scatter(only_right)
    dark = np.asarray(picture.convert("L")) < 128
    middle = dark[100:540, 100:540]
    assert picture.size == (640, 640)
    # Right of the middle, and above it.
    assert middle[:220, 220:].sum() > 300 > 10 > middle[220:, :220].sum()
