"""Train diffusion models in JAX, keep their history, and guide them with it."""

from jaxdiff.version import __version__ as __version__
