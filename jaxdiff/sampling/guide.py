"""The noisy classifier that guides a sampling job: found, checked and loaded."""

import dataclasses

import jax

from jaxdiff import build
from jaxdiff.checkpoints.run import Reference, read_ema, resolve
from jaxdiff.config import PROCESS_FIELDS
from jaxdiff.errors import UserError
from jaxdiff.models.network import Network
from jaxdiff.parallel.mesh import replicated


@dataclasses.dataclass(frozen=True)
class Guide:
    """A classifier's network, where it came from, and how hard it guides.

    Attributes:
      reference: what the command line named.
      network: a Network of a ClassifierSpec.
      scale: not negative; at 0 the classifier lends its classes and is never evaluated.
    """

    reference: Reference
    network: Network
    scale: float

    def load(self, mesh):
        """What the generator takes: (params, scale)."""
        shardings = jax.tree.map(lambda _: replicated(mesh), self.network.shapes)
        return read_ema(self.reference, self.network.shapes, shardings), self.scale


def find(name, scale, config):
    """The guide that a request names, or None.

    Args:
      name: reference to a classifier, or None.
      scale: how hard it guides, not negative.
      config: of the model that it is to guide.

    Raises:
      UserError: if it is no classifier, or one of another noise process, image shape or classes.
    """
    if name is None:
        return None
    if not scale >= 0:
        raise UserError(f"--classifier_scale is {scale}: it must be 0 or more.")
    reference = resolve(name)
    own = reference.run.config()
    if own.model.kind != "classifier":
        raise UserError(f"{reference} is no classifier: --classifier wants one.")
    _check(reference, own, config)
    return Guide(reference, build.network(own), scale)


def _check(reference, own, config):
    names = [("diffusion", field) for field in PROCESS_FIELDS]
    names += [("data", "image_size"), ("data", "channels")]
    if config.data.num_classes:
        names.append(("data", "num_classes"))
    different = [
        f"{section}.{field} ({own[section][field]}, the model's is {config[section][field]})"
        for section, field in names
        if own[section][field] != config[section][field]
    ]
    if different:
        raise UserError(
            f"The classifier {reference} differs from the model in {', '.join(different)}: guide "
            "with one that was trained with the model's run as diffusion.from_run."
        )


def num_classes(guide, config):
    """How many classes there are to ask for: the model's, or else the classifier's."""
    if config.data.num_classes or guide is None:
        return config.data.num_classes
    return guide.network.spec.num_classes
