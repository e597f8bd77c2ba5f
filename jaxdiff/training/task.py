"""What training needs of a run's config: the network, its process, codec, objective, optimizer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import factory
from jaxdiff.config import ADM, RunConfig
from jaxdiff.diffusion.timesteps import LossHistory
from jaxdiff.models.network import Network
from jaxdiff.training.averages import profiles
from jaxdiff.training.objective import Objective, objective_of
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.state import NonFiniteSteps, State

INIT = 2**32 - 1  # step n draws from fold_in(key, n), initial parameters from this


@dataclasses.dataclass(frozen=True)
class Task:
    """The parts of a training step.

    Attributes:
      config: of the run; data_std of EDM's process is not 0.
      network: without parameters.
      process: the noise process.
      codec: encodes the data as the network's x.
      objective: the loss.
      optimizer: an optax transformation.
    """

    config: RunConfig
    network: Network
    process: Any
    codec: Any
    objective: Objective
    optimizer: optax.GradientTransformation

    @classmethod
    def of(cls, config, mesh=None):
        """The task of a run's config; with a mesh, for its devices."""
        network, process = factory.network(config, mesh), factory.process(config.diffusion)
        return cls(
            config,
            network,
            process,
            factory.codec(config.model.codec),
            objective_of(config, network, process),
            make_optimizer(config.training),
        )

    def init(self) -> State:
        """The state before the first step; pure, to be jitted or traced."""
        params = self.network.init(jax.random.fold_in(jax.random.key(self.config.seed), INIT))
        names = profiles(self.config.training)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            ema={name: jax.tree.map(jnp.copy, params) for name in names},
            history=self._history(),
            non_finite=NonFiniteSteps.none(),
        )

    def _history(self):
        diffusion = self.config.diffusion
        if isinstance(diffusion, ADM) and diffusion.timestep_sampler == "loss_second_moment":
            return LossHistory.empty(diffusion.num_timesteps)
        return None
