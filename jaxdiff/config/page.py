"""The page of all settings, made from the dataclasses.

python -m jaxdiff.config.page > docs/settings.md
"""

import dataclasses

from jaxdiff.config import (
    conditions,
    evaluation,
    guidance,
    networks,
    processes,
    run,
    samplers,
    training,
)
from jaxdiff.config.fields import expected, hints, meanings

SECTIONS = {
    "A run": (run.RunConfig,),
    "`data`": (training.DataConfig,),
    "`model`": (networks.UNetConfig, networks.ClassifierConfig, networks.PixelCodec),
    "`model.conditions`": (
        conditions.Label,
        conditions.Vector,
        conditions.Image,
        conditions.Tokens,
    ),
    "`diffusion`": (processes.ADM, processes.EDM),
    "`training`": (training.TrainingConfig,),
    "`sampling`": (samplers.DDPM, samplers.DDIM, samplers.Heun, samplers.DPMpp),
    "`evaluation`": (evaluation.EvaluationConfig,),
    "`mesh`": (training.MeshConfig,),
    "Guidance": (
        guidance.CFG,
        guidance.ICG,
        guidance.Autoguidance,
        guidance.ClassifierGuidance,
        guidance.Schedule,
        guidance.APG,
        guidance.CADS,
    ),
}
HEAD = """# Settings

Every setting of `jaxdiff.config`, with its default and what it may be. A config file sets them in
Python; `--config.SECTION.FIELD=VALUE` overrides one on the command line. Made from the dataclasses
by `python -m jaxdiff.config.page > docs/settings.md`.
"""


def page():
    """The text of docs/settings.md."""
    parts = [HEAD]
    for title, classes in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_of_class(cls) for cls in classes]
    return "\n".join(parts)


def _of_class(cls):
    first = cls.__doc__.strip().splitlines()[0]
    rows = [
        f"| `{field.name}` | {_default(field)} | {_escaped(expected(hints(cls)[field.name]))} "
        f"| {_escaped(meanings(cls)[field.name])} |"
        for field in dataclasses.fields(cls)
    ]
    head = [f"### `{cls.__name__}`\n", f"{first}\n"]
    table = ["| field | default | may be | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(head + (table if rows else []))


def _default(field):
    if field.default is dataclasses.MISSING:
        return ""
    is_settings = dataclasses.is_dataclass(field.default)
    return f"`{type(field.default).__name__}()`" if is_settings else f"`{field.default!r}`"


def _escaped(text):
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
