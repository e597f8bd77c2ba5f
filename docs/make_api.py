"""The page of the Python API, made from the docstrings: python docs/make_api.py > docs/api.md."""

import inspect
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jaxdiff

HEAD = """# The Python API

Everything that `import jaxdiff` offers, in the order of the alphabet. [Python](python.md) shows it
in examples, [settings](settings.md) has the fields of the classes of settings. Made from the
docstrings by `python docs/make_api.py > docs/api.md`.
"""
METHODS = {"TrainedModel": ("sample", "denoise"), "Samples": ("grid", "save")}


def page():
    """The text of docs/api.md."""
    parts = [HEAD]
    for name in sorted(jaxdiff._MODULES, key=str.lower):
        value = getattr(jaxdiff, name)
        parts.append(_entry("##", f"jaxdiff.{name}", value))
        for method in METHODS.get(name, ()):
            parts.append(_entry("###", f"{name}.{method}", getattr(value, method)))
    return "\n".join(parts)


def _entry(level, name, value):
    is_settings = hasattr(value, "kind")
    text = inspect.getdoc(value)
    if is_settings:  # the fields are on the page of settings
        text = text.partition("Attributes:")[0].strip()
    signature = "" if inspect.isclass(value) else f"{name}{inspect.signature(value)}\n\n"
    indented = "\n".join(f"    {line}".rstrip() for line in f"{signature}{text}".splitlines())
    return f"{level} `{name}`\n\n{indented}\n"


if __name__ == "__main__":
    print(page(), end="")
