"""Released checkpoints as runs, and runs as such checkpoints.

An imported checkpoint is a run with one snapshot, so every program that takes a run takes it.
"""

import contextlib
import re

import jax

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import ANOTHER, Store, writing
from jaxdiff.checkpoints.run import Run, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.files import creating, local_path
from jaxdiff.interop import openai, openai_state, torch_file
from jaxdiff.interop.openai_infer import Options, infer
from jaxdiff.interop.openai_released import released_new_order
from jaxdiff.parallel.mesh import make_mesh, replicated


def import_file(path, config, out, *, step=None, new_order=None, options=None):
    """Makes a run whose averaged network is that of a PyTorch file.

    Args:
      path: of the file.
      config: the run's; None: read off the tensors.
      out: the run's folder; made, or empty.
      step: that the network has in the run; None: as the file or its name says, or 0.
      new_order: whether its attention was made with use_new_attention_order; None: if that of
        the released network of these sizes was.
      options: Options, what tensors do not say, where there is no config.

    Raises:
      UserError: if one of them cannot be used, or they do not fit.
    """
    if config is not None:
        config_lib.validate(config)
    path, out = local_path(path, "FILE"), local_path(out, "--out")
    Run(out).check_name("--out")
    with writing(out, ANOTHER):
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"{out} is not empty, and nothing is overwritten: choose another --out."
            )
    found = openai_state.find(torch_file.read_nested(path), path)
    if str(found):
        print(f"From {path}: {found}.")
    # As views of one storage, a few bytes can be any number of weights.
    if 2 * sum(array.size for array in found.state_dict.values()) > path.stat().st_size:
        raise UserError(f"{path} describes more weights than it has room for: save it again.")
    state_dict = {name: openai.weights(name, array) for name, array in found.state_dict.items()}
    is_inferred = config is None
    if is_inferred:
        config = _inferred(state_dict, options or Options())
    step = found.step if step is None else step
    step = _step_in_name(path) if step is None else step
    network = factory.network(config)
    spec, is_assumed = network.spec, is_inferred and new_order is None
    new_order = released_new_order(config) if new_order is None else new_order
    # Of one head, both orders are the same.
    if is_assumed and any(spec.heads(width) > 1 for width in spec.widths):
        order = "new" if new_order else "legacy"
        print(f"Queries, keys and values are taken to be in the {order} order (--attention_order).")
    params = openai.from_state_dict(network, state_dict, new_order=new_order)
    with writing(out, ANOTHER):
        out.parent.mkdir(parents=True, exist_ok=True)
        with creating(out) as folder:
            _write_run(folder, config, params, step or 0)
    if step is None:
        print(f"Imported {path}: {out}, as step 0, as nothing says how long it was trained.")
    else:
        print(f"Imported {path}: {out}@{step}")


def _inferred(state_dict, options):
    """The config that a network's tensors and the options say."""
    shapes = {name: array.shape for name, array in state_dict.items()}
    config, notes = infer(shapes, options)
    config_lib.validate(config)
    for note in notes:
        print(note)
    return config


def _step_in_name(path):
    """The step that ADM's training puts into a file's name, or None."""
    match = re.fullmatch(r"(?:model|ema_[0-9.]+_)(\d{6,9})\.pt", path.name, re.ASCII)
    return match and int(match[1])


def _write_run(folder, config, params, step):
    run, profile = Run(folder), str(config.training.ema)
    meta = {"step": step, "batch": step, "ema": [profile]}
    folder.mkdir()
    with contextlib.closing(Store(run.snapshots)) as snapshots:
        snapshots.save(step, {"ema": {profile: params}}, meta)
    run.write_config(config)


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
    local_path(reference, "RUN")
    reference, out = resolve(reference), local_path(out, "--out")
    config = reference.run.config()
    new_order = released_new_order(config) if new_order is None else new_order
    network = factory.network(config)
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
        with creating(out) as partial:
            torch_file.write(partial, state_dict)
    print(f"Exported {reference}: {out}")
