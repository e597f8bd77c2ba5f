"""Initial values: every parameter's from a key of its own, but drawn together.

Parameter number n of a network has the key fold_in(key, n), as of nnx.Rngs. A draw for each is a
program of hundreds of loops, which takes a compiler longer than a training step. So a network is
built twice: first with `Recorded` in place of nnx.Rngs, which notes what is to be drawn, and then
with `Drawn`, which has drawn it, equal shapes in one loop and small ones with them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

# Arrays of at most SMALL values are the beginnings of longer draws, of LEAST * 8^k values.
LEAST, SMALL = 2**12, 2**18


@dataclasses.dataclass(frozen=True)
class Key:
    """A parameter's key that is not made before it is needed.

    Attributes:
      rngs: that gave it, Recorded or Drawn.
      number: of the key.
    """

    rngs: "Recorded | Drawn"
    number: int


def uniform(key, shape, bound):
    """Values uniform in [-bound, bound), float32; the key is JAX's or a Key."""
    if isinstance(key, Key):
        return key.rngs.uniform(key.number, shape, bound)
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def normal(key, shape, deviation):
    """Normal values of mean 0, float32; the key is JAX's or a Key."""
    if isinstance(key, Key):
        key = key.rngs.key(key.number)
    return deviation * jax.random.normal(key, shape, jnp.float32)


class Recorded:
    """In place of nnx.Rngs: notes the uniform draws, and makes arrays of their shapes.

    Attributes:
      draws: {number: (shape, bound)}.
    """

    def __init__(self):
        self.draws, self._count = {}, 0

    def params(self):
        """The next parameter's Key."""
        self._count += 1
        return Key(self, self._count - 1)

    def uniform(self, number, shape, bound):
        """Zeros of this shape."""
        self.draws[number] = tuple(shape), bound
        return jnp.zeros(shape)

    def key(self, number):
        """Some key."""
        return jax.random.key(number)


class Drawn:
    """In place of nnx.Rngs: what each parameter's draw with its own key would be.

    Arguments:
      key: the network's.
      draws: of a Recorded.
    """

    def __init__(self, key, draws):
        self._key, self._count, self._values = key, 0, _together(key, draws)

    def params(self):
        """The next parameter's Key."""
        self._count += 1
        return Key(self, self._count - 1)

    def uniform(self, number, *_):
        """The values of the draw with this number."""
        return self._values[number]

    def key(self, number):
        """The key of this number."""
        return jax.random.fold_in(self._key, number)


def _together(key, draws):
    """{number: array} of the draws {number: (shape, bound)}."""
    groups, found = {}, {}
    for number, (shape, _) in draws.items():
        groups.setdefault(_enough(shape), []).append(number)
    for drawn_shape, numbers in groups.items():
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array(numbers))
        bounds = np.float32([draws[number][1] for number in numbers])
        draw = jax.vmap(lambda key, bound, shape=drawn_shape: uniform(key, shape, bound))
        for number, values in zip(numbers, draw(keys, bounds), strict=True):
            shape, _ = draws[number]
            found[number] = values.ravel()[: math.prod(shape)].reshape(shape)
    return found


def _enough(shape):
    """The shape of a draw that holds that of `shape`: a value depends on its key and place alone.

    Large arrays are drawn as they are, so that their shards are drawn where they are needed.
    """
    size = LEAST
    while size < math.prod(shape):
        size *= 8
    return (size,) if size <= SMALL else tuple(shape)
