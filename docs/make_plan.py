"""Plans of docs/plan.md, kept in docs/plan.json, and the tables made of them.

python docs/make_plan.py --form quick              plans what is not there yet, and writes tables
python docs/make_plan.py --form compiled --only v5e:8x8,training,imagenet64_edm
python docs/make_plan.py                           writes the tables
"""

import json
import pathlib
import sys
from typing import Literal

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jaxdiff import cli  # noqa: E402
from jaxdiff.plan import command, hardware  # noqa: E402

RESULTS, PAGE = ROOT / "docs/plan.json", ROOT / "docs/plan.md"
BEGIN, END = "<!-- tables by docs/make_plan.py -->", "<!-- end of the tables -->"
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16", "v6e:8x8", "v5p:4x4x4", "h100:8", "h100:64")
TRAINING = {
    "imagenet64_edm": ["--config.training.remat=true"],
    "imagenet64_edm_guide": ["--config.training.remat=true"],
    "adm/imagenet64": ["--config.training.dtype=bfloat16", "--config.training.remat=true"],
    "adm/imagenet256": ["--config.training.dtype=bfloat16", "--config.training.remat=true"],
}
SAMPLING = {
    "imagenet64_edm": ["--guide", "configs/imagenet64_edm_guide.py"],
    "adm/imagenet64": ["--classifier", "configs/adm/classifier64.py", "--dtype", "bfloat16"],
    "adm/imagenet256": ["--classifier", "configs/adm/classifier256.py", "--dtype", "bfloat16"],
}
EACH = {"imagenet64_edm": 16, "adm/imagenet64": 16, "adm/imagenet256": 4}  # samples of a device


# Images of a device's part of a batch that fit with room to spare, of 64 pixels.
PARTS = {"v5e": 32, "v6e": 64, "v5p": 128, "h100": 128}


def rows():
    """{key: flags} of all plans."""
    found = {}
    for text in TOPOLOGIES:
        topology = hardware.parse_topology(text)
        for name, flags in TRAINING.items():
            large = name == "adm/imagenet256"
            each = (256 if large else 2048) // topology.size
            part = PARTS[topology.name] // (16 if large else 1)
            own = ["--config", f"configs/{name}.py", *flags, "--topology", text]
            own.append(f"--config.mesh.fsdp={8 if topology.name == 'v5e' else 1}")
            own.append(f"--config.training.accumulate={max(1, each // part)}")
            found[f"training {name} {text}"] = own
        for name, flags in SAMPLING.items():
            size = str(EACH[name] * topology.size)
            own = ["--model", f"configs/{name}.py", *flags, "--batch_size", size]
            found[f"sampling {name} {text}"] = [*own, "--topology", text]
    return found


def plan(results, form, only):
    """Adds to {key: {form: values}} the plans of a form that are missing."""
    flags = {"plain": ["--plain"], "quick": ["--quick"], "compiled": []}[form]
    for key, own in rows().items():
        if not all(word in key.split() for word in only) or form in results.get(key, {}):
            continue
        print(key, flush=True)
        args = command.parser().parse_args([*own, *flags])
        (report,) = command.reports(args)
        results.setdefault(key, {})[form] = report.values()
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def tables(results):
    """Markdown: a table of training and one of sampling, and how far quick plans are off."""
    lines = []
    for doing in ("training", "sampling"):
        found = {key: forms for key, forms in results.items() if key.startswith(doing)}
        lines += [f"### {doing.capitalize()}", "", *_table(doing, found), ""]
    return "\n".join([*lines, *_errors(results)])


def _table(doing, found):
    total = "days" if doing == "training" else "hours for 50,000"
    heads = ["config", "devices", "form", "batch", "parts", "fsdp", "GiB", "of"]
    heads += ["roofline s", "at .4, s", "images/s", total, "chip-hours"]
    lines = [heads, ["---"] * len(heads)]
    for key in sorted(found, key=lambda key: (key.split()[1], TOPOLOGIES.index(key.split()[2]))):
        form = next(form for form in FORMS if form in found[key])
        values = found[key][form]
        memory, usable = sum(values["memory"].values()) / 2**30, values["usable_memory"] / 2**30
        duration = values["days"] * (1 if doing == "training" else 24)
        lines.append(
            [
                key.split()[1],
                values["topology"],
                "**full**" if form == "compiled" else form,
                f"{values['batch_size']:,}",
                str(values.get("accumulate", 1)),
                str(values["mesh"]["fsdp"]),
                ("> " if form == "plain" else "")
                + f"{memory:.1f}"
                + ("" if values["fits"] else " (too much)"),
                f"{usable:.1f}",
                f"{values['roofline_s']:.3f}",
                f"{values['seconds']:.3f}",
                f"{values['images_per_s']:,.0f}",
                f"{duration:,.2f}",
                f"{values['chip_hours']:,.0f}",
            ]
        )
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _errors(results):
    both = {key: forms for key, forms in results.items() if {"quick", "compiled"} <= set(forms)}
    lines = ["### What a quick plan is off by", ""]
    lines += ["| plan | memory | traffic | roofline |", "| --- | --- | --- | --- |"]
    for key, forms in sorted(both.items()):
        ratios = [measure(forms["quick"]) / measure(forms["compiled"]) for measure in MEASURES]
        lines.append(f"| {key} | {' | '.join(f'{100 * r - 100:+.0f} %' for r in ratios)} |")
    return lines if both else []


FORMS = ("compiled", "quick", "plain")  # the best first
MEASURES = (
    lambda values: sum(values["memory"].values()),
    lambda values: sum(p["turns"] * sum(p["traffic"].values()) for p in values["programs"]),
    lambda values: values["roofline_s"],
)


def _make(args):
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if args.form:
        plan(results, args.form, args.only)
    head, rest = PAGE.read_text().split(BEGIN)
    page = f"{head}{BEGIN}\n\n{tables(results)}\n\n{END}{rest.split(END)[1]}"
    PAGE.write_text(page)


if __name__ == "__main__":
    hardware.ready()
    parser = cli.Parser(__doc__)
    cli.add_flag(
        parser, "form", Literal["plain", "quick", "compiled"], help="How to plan what is missing"
    )
    cli.add_flag(parser, "only", tuple[str, ...], (), "Words of the plans to make, such as v5e:8x8")
    cli.run(_make, parser)
