"""Released checkpoints as runs, and runs as such checkpoints.

An imported checkpoint is a run with one snapshot, so every program that takes a run takes it.
"""

import contextlib
import pathlib

import jax

from jaxdiff import build
from jaxdiff import config as config_lib
from jaxdiff.checkpoints.run import Run, read_ema, resolve
from jaxdiff.checkpoints.store import Store
from jaxdiff.errors import UserError
from jaxdiff.interop import openai, torch_file
from jaxdiff.parallel.mesh import make_mesh, replicated


def import_file(path, config, out, *, step=None, new_order=False):
    """Makes a run whose averaged network is that of a PyTorch file.

    Args:
      path: of the file.
      config: the run's.
      out: the run's folder; made, or empty.
      step: that the network has in the run; None: training.num_steps.
      new_order: whether its attention was made with use_new_attention_order.

    Raises:
      UserError: if one of them cannot be used, or they do not fit.
    """
    config_lib.validate(config)
    step = config.training.num_steps if step is None else step
    out = pathlib.Path(out)
    with _writable(out):
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"{out} is not empty, and nothing is overwritten: choose another --out."
            )
    params = openai.from_state_dict(
        build.network(config), torch_file.read(path), new_order=new_order
    )
    run, profile = Run(out), str(config.training.ema)
    meta = {"step": step, "batch": step, "ema": [profile]}
    with _writable(out):
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(Store(run.snapshots)) as snapshots:
            snapshots.save(step, {"ema": {profile: params}}, meta)
        # Last: it makes the folder a run, which it is once the network is there.
        run.config_file.write_text(config_lib.to_json(config))
    print(f"Imported {path}: {out}@{step}")


def export_run(reference, out, *, new_order=False):
    """Writes the averaged network of a run as a PyTorch file.

    Args:
      reference: RUN or RUN@STEP.
      out: the file, which must not exist.
      new_order: whether its attention is to be read with use_new_attention_order.

    Raises:
      UserError: if one of them cannot be used, or no released network is like that one.
    """
    reference, out = resolve(reference), pathlib.Path(out)
    network = build.network(reference.run.config())
    openai.check_exportable(network)
    with _writable(out):
        if out.exists():
            raise UserError(f"{out} exists, and nothing is overwritten: choose another --out.")
    sharding = replicated(make_mesh())
    shardings = jax.tree.map(lambda _: sharding, network.shapes)
    params = read_ema(reference, network.shapes, shardings)
    state_dict = openai.to_state_dict(network, params, new_order=new_order)
    with _writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        torch_file.write(out, state_dict)
    print(f"Exported {reference}: {out}")


@contextlib.contextmanager
def _writable(out):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): choose another --out."
        ) from None
