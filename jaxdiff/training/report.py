"""What a run tells while it trains: on the terminal, and in TensorBoard files."""

import sys

import jax
from clu import parameter_overview
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxdiff.parallel import processes
from jaxdiff.training.state import state_bytes


def describe(mesh, state):
    """Prints the mesh, the parameters, and how much memory the state takes.

    Args:
      mesh: of devices.
      state: a State of shapes with shardings.
    """
    if not processes.is_first():
        return
    print(f"Mesh: {dict(mesh.shape)} of {mesh.size} {jax.devices()[0].device_kind} device(s)")
    print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    sizes = state_bytes(state)
    here = state_bytes(jax.tree.map(_shard, state))
    for name, size in sizes.items():
        print(f"{name:>12}: {_mib(size)} in all, {_mib(here[name])} on a device")
    print(f"{'together':>12}: {_mib(sum(sizes.values()))}, {_mib(sum(here.values()))} on a device")


def _shard(leaf):
    return jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)


def _mib(size):
    return f"{size / 2**20:,.1f} MiB"


def progress_bar(total, initial):
    """A bar of steps, in the first process; rare lines where the output is not a terminal."""
    return tqdm(
        total=total,
        initial=initial,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 20,
        disable=not processes.is_first(),
    )


class Writer:
    """TensorBoard files without TensorFlow; method names are clu's. Writes in one process."""

    def __init__(self, folder, first_step):
        """Events of steps from `first_step` on, left by a run that was cut off, are dropped."""
        self._writer = (
            SummaryWriter(str(folder), purge_step=first_step or None)
            if processes.is_first()
            else None
        )

    def write_scalars(self, step, scalars):
        """{name: number}."""
        if self._writer:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def write_images(self, step, images):
        """{name: uint8 [H, W, C]}."""
        if self._writer:
            for name, image in images.items():
                self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self):
        """Writes what is still held back."""
        if self._writer:
            self._writer.close()
