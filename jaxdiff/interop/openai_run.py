"""Released checkpoints as runs, and runs as such checkpoints.

An imported checkpoint is a run with one snapshot, so every program that takes a run takes it.
"""

import contextlib
import pathlib

import jax

from jaxdiff import build
from jaxdiff import config as config_lib
from jaxdiff.checkpoints.run import new_run, read_ema, resolve
from jaxdiff.checkpoints.store import ANOTHER, Store, writing
from jaxdiff.errors import UserError
from jaxdiff.interop import openai, torch_file
from jaxdiff.parallel.mesh import make_mesh, replicated


def released_new_order(config):
    """Whether the released network of a config's sizes has the new order of attention.

    Of all released networks that is the diffusion model of 64 x 64 alone; no file says it.
    """
    data, model = config.data, config.model
    sizes = (data.image_size, data.low_res_size, model.channels, tuple(model.channel_mult))
    return model.kind == "unet" and sizes == (64, 0, 192, (1, 2, 3, 4))


def import_file(path, config, out, *, step=None, new_order=None):
    """Makes a run whose averaged network is that of a PyTorch file.

    Args:
      path: of the file.
      config: the run's.
      out: the run's folder; made, or empty.
      step: that the network has in the run; None: training.num_steps.
      new_order: whether its attention was made with use_new_attention_order; None: if that of
        the released network of these sizes was.

    Raises:
      UserError: if one of them cannot be used, or they do not fit.
    """
    config_lib.validate(config)
    step = config.training.num_steps if step is None else step
    new_order = released_new_order(config) if new_order is None else new_order
    with new_run(out) as run:
        params = openai.from_state_dict(
            build.network(config), torch_file.read(path), new_order=new_order
        )
        profile = str(config.training.ema)
        meta = {"step": step, "batch": step, "ema": [profile]}
        with writing(out, ANOTHER):
            with contextlib.closing(Store(run.snapshots)) as snapshots:
                snapshots.save(step, {"ema": {profile: params}}, meta)
            # Last: it makes the folder a run, which it is once the network is there.
            run.write_config(config)
    print(f"Imported {path}: {out}@{step}")


def export_run(reference, out, *, new_order=None):
    """Writes the averaged network of a run as a PyTorch file.

    Args:
      reference: RUN or RUN@STEP.
      out: the file, which must not exist.
      new_order: whether its attention is to be read with use_new_attention_order; None: if that
        of the released network of its sizes is.

    Raises:
      UserError: if one of them cannot be used, or no released network is like that one.
    """
    reference, out = resolve(reference), pathlib.Path(out)
    config = reference.run.config()
    new_order = released_new_order(config) if new_order is None else new_order
    network = build.network(config)
    if config.diffusion.process != "adm" or reference.dropout:
        raise UserError(
            f"{reference} has {'dropout' if reference.dropout else 'the process edm'}, of "
            "which the other code's files say nothing: export a plain network of the process adm."
        )
    openai.check_exportable(network)
    with writing(out, ANOTHER):
        if out.exists():
            raise UserError(f"{out} exists, and nothing is overwritten: choose another --out.")
    sharding = replicated(make_mesh())
    shardings = jax.tree.map(lambda _: sharding, network.shapes)
    params = read_ema(reference, network.shapes, shardings)
    state_dict = openai.to_state_dict(network, params, new_order=new_order)
    with writing(out, ANOTHER):
        out.parent.mkdir(parents=True, exist_ok=True)
        torch_file.write(out, state_dict)
    print(f"Exported {reference}: {out}")
