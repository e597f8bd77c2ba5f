import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.memory import device_memory, out_of_memory, size_text


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: jnp.zeros((10**12, 1000)),
        lambda: np.empty(10**16),
        lambda: jax.jit(lambda key: jax.random.normal(key, (10**15,))[::7])(jax.random.key(0)),
    ],
    ids=["JAX", "NumPy", "a compiled program"],
)
def test_what_does_not_fit_is_said_in_one_line(allocate):
    with pytest.raises(UserError) as caught, out_of_memory("choose a smaller --batch_size"):
        jax.block_until_ready(allocate())
    assert "\n" not in str(caught.value)
    assert "--batch_size" in str(caught.value)


def test_what_a_cpu_says_of_a_program_is_understood():
    # As jaxlib says it to whoever waits for a program that could not allocate.
    words = "INTERNAL: Error dispatching computation: Out of memory allocating 25482977600 bytes."
    with pytest.raises(UserError, match="25482977600 bytes"), out_of_memory("wait"):
        raise jax.errors.JaxRuntimeError(words)


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), out_of_memory("choose a smaller --batch_size"):
        raise ZeroDivisionError
    other = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory("nothing"):
        raise other


def test_this_machine_has_memory():
    assert device_memory() > 2**20
    assert (size_text(1536 * 2**20), size_text(2**19)) == ("1.50 GiB", "0.5 MiB")
