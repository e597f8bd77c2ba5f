"""Settings of the toy's data, network and noise process: kinds from outside the package.

Nothing here imports JAX. A program that opens a run of the toy gives `--import studies.toy.kinds`;
the study's own commands and configs/toy.py import it themselves.
"""

from typing import Annotated, Literal

from jaxdiff.config import EDM, Range, settings
from jaxdiff.errors import UserError

Classes = Literal["A", "AB"]


@settings(section="data")
class TreeData:
    """Points of the plane on two trees.

    Attributes:
      classes: whose points: class A's tree, or both trees.
    """

    classes: Classes = "A"

    shape = (2,)
    augment = "none"
    workers = 0
    held_out = "test"

    def open(self, split, conditions):
        """The Source of a split, without conditions."""
        from studies.toy.data import open_points

        return open_points(self.classes, split, conditions)


@settings(section="codec")
class PointCodec:
    """Points are what the network takes; there is nothing to encode."""

    def shape(self, shape):
        """The shape of x for data of a shape: the same."""
        return shape

    def build(self):
        """The codec."""
        from studies.toy.network import Points

        return Points()


@settings(section="model")
class ToyNetwork:
    """A multilayer perceptron from points to log densities.

    Attributes:
      channels: width of every layer.
      num_layers: how many layers follow the first one.
      initial_gain: the gain before the first step. Its sign tends to stay: with a negative gain the
        log density falls off away from the data, with a positive one it grows there without bound,
        and samples end as outliers. The paper's is 0, which leaves the sign to the first gradient.
      final_silu: put the last layer's output through SiLU too, which the paper does not.
    """

    channels: Annotated[int, Range(1, 2**14)] = 64
    num_layers: Annotated[int, Range(1, 2**8)] = 4
    initial_gain: Annotated[float, Range(-1e6, 1e6)] = -0.1
    final_silu: bool = False

    codec = PointCodec()
    conditions = ()

    def check_shape(self, shape):
        """Raises UserError for samples that are no points."""
        if len(shape) != 1:
            raise UserError(
                f"model.kind is {self.kind}, which takes points, and the data have the shape "
                f"{shape}: use a network for them."
            )

    def build(self, signature, rngs):
        """The network."""
        from studies.toy.network import Toy

        return Toy(self, signature, rngs=rngs)


@settings(section="diffusion")
class LogDensityEDM(EDM):
    """EDM's process on a distribution that is known, with a network that gives a log density.

    Attributes:
      classes: of the distribution, those of the data.
    """

    classes: Classes = "A"

    def build(self):
        """The process."""
        from jaxdiff.diffusion.edm import EdmProcess
        from studies.toy.data import distribution
        from studies.toy.process import LOG_DENSITY

        return EdmProcess(self, parameterization=LOG_DENSITY, data=distribution(self.classes))
