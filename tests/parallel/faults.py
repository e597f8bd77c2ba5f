"""Trains as train.py does, and in one of the processes something fails after a step.

python -m tests.parallel.faults FAULT PROCESS STEP [arguments of train.py]
"""

import itertools
import os
import resource
import sys
import time

FAULTS = {}


def fault(function):
    """Adds what happens to FAULTS, by its name."""
    FAULTS[function.__name__] = function
    return function


@fault
def nothing():
    """This process is killed, stopped or asked to end from outside."""


@fault
def bug():
    """An error that no user caused."""
    raise ZeroDivisionError("a fault of this test")


@fault
def memory():
    """The host has no memory left."""
    raise MemoryError("Unable to allocate 3.00 TiB for an array")


@fault
def device_memory():
    """The device has none, in XLA's own words."""
    import jax.numpy as jnp

    jnp.zeros(2**45).block_until_ready()


@fault
def disk():
    """The disk is full for this process, in whatever it writes from now on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))


def main():
    """Prints `at STEP` after each step of this program."""
    name, process, step, *arguments = sys.argv[1:]
    sys.argv = ["train.py", *arguments]
    from jaxdiff.training import command
    from jaxdiff.training.interrupt import Interrupt

    asked, numbers = Interrupt.asked, itertools.count(1)

    def asked_and_failing(self):
        last, number = asked(self), next(numbers)
        print("at", number, flush=True)
        time.sleep(0.02)
        if number == int(step) and os.environ["JAX_PROCESS_ID"] == process:
            FAULTS[name]()
        return last

    Interrupt.asked = asked_and_failing
    command.main()


if __name__ == "__main__":
    main()
