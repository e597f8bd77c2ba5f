"""A checksum of arrays' values that does not depend on where they are and how they are stored.

orbax restores a file with a flipped byte silently, with wrong values. A fingerprint is taken of
the arrays before they are written and again after they are read, so it covers the whole way, for
any sharding and any number of hosts.
"""

import jax
import jax.numpy as jnp


@jax.jit
def _checksum(array):
    """Sum of the words, each times an odd number of its position, modulo 2^32.

    Odd numbers have inverses there, so any change of one word changes the sum. Integer addition is
    associative, so the order in which devices add does not matter.
    """
    words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(array, words).astype(jnp.uint32)
    position, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        position, stride = position + index * jnp.uint32(stride % 2**32), stride * array.shape[axis]
    return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)


@jax.jit
def _checksums(leaves):
    """Of all leaves, in one program.

    A program for each leaf, each with a sum over the devices that no other waits for, can stop
    permanently where several processes have few cores.
    """
    return [_checksum(leaf) for leaf in leaves]


def fingerprint(tree):
    """{"path/of/leaf": checksum} of a tree of arrays; waits for them to be computed."""
    leaves = jax.tree.leaves_with_path(tree)
    sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
    return {_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def changed(tree, fingerprints):
    """Names of the leaves whose values are not those that the fingerprints were taken of."""
    found = fingerprint(tree)
    return sorted(n for n in {*found, *fingerprints} if found.get(n) != fingerprints.get(n))


def _name(path):
    return "/".join(
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path
    )
