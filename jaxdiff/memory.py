"""Out-of-memory errors as one sentence, and how much memory there is."""

import contextlib
import os
import re

import jax

from jaxdiff.errors import UserError


@contextlib.contextmanager
def out_of_memory(advice):
    """Turns the errors of a device or host whose memory is exhausted into a UserError.

    Wait for all results inside the context: JAX raises errors where results are waited for.

    Args:
      advice: what to do about it, to end a sentence: "choose a smaller --batch_size".

    Raises:
      UserError: in their place.
    """
    try:
        yield
    except MemoryError as error:
        raise UserError(_sentence(error, advice)) from None
    except jax.errors.JaxRuntimeError as error:
        # On CPUs the error of a program is "INTERNAL: ... Out of memory".
        if not re.search("RESOURCE_EXHAUSTED|out of memory", str(error), re.IGNORECASE):
            raise
        raise UserError(_sentence(error, advice)) from None


def physical_memory():
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_memory():
    """Bytes of a device of this process; CPU devices share what the machine has."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return physical_memory() / jax.local_device_count()


def size_text(size):
    """Bytes as text, in GiB or MiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _sentence(error, advice):
    size = re.search(r"[\d.]+ ?([KMGTPE]i?B|bytes)\b", str(error))
    asked = f" for {size[0]} more" if size else ""
    return f"The memory does not suffice{asked}: {advice}."
