"""The shape of the code: layers, cycles, where errors are raised, sizes, and words."""

import ast
import re

import pytest

from benchmarks import code
from tests.conftest import ROOT

# A layer imports only from itself and from those before it.
LAYERS = (
    ("errors", "version", "numbers"),
    ("config",),
    ("models",),
    ("diffusion",),
    ("guidance",),
    ("samplers",),
    (
        *("files", "claims", "arrays", "buckets", "checked_json", "tables", "tensor_files"),
        *("chips", "counts", "scopes"),
        *("parallel", "data", "checkpoints", "memory", "progress", "stopping", "cli", "locks"),
    ),
    ("factory",),
    ("training", "sampling", "evaluation"),
    ("plan",),
    ("interop", "commands"),
)
WITHOUT_USER_ERRORS = ("models", "diffusion", "guidance", "samplers", "parallel")
SOURCES = sorted((ROOT / "jaxdiff").rglob("*.py"))
# Words of earlier versions, and what is said instead: see the table in docs/design.md.
OLD_WORDS = (
    r"\btold\b",
    r"\bpush(ed|es)? away\b",
    r"\bhow hard\b",
    r"\bstretch(es)?\b",
    r"\bnudge[ds]?\b",
    r"\bStrength\b",
    r"\bTold\b",
    r"\bAgainst\b",
    r"\bbad (step|version)s?\b",
    r"\bDamaged\b",
    r"\bUnwritten\b",
    r"\balike\b",
    r"\banew\b",
    r"\bfor ever\b",
    r"\bmend(s|ed)?\b",
    r"\bgoes on\b",
    r"\blies\b",
)


def layer_of(module):
    part = module.split(".")[1]
    return next((n for n, names in enumerate(LAYERS) if part in names), None)


def test_imports_point_one_way():
    for module, others in code.imports().items():
        if module.count("."):
            assert layer_of(module) is not None, f"{module} belongs to no layer"
            above = [m for m in others if m.count(".") and layer_of(m) > layer_of(module)]
            assert not above, f"{module} imports {above}"


def test_no_module_imports_itself_by_way_of_others():
    assert code.cycles() == []


@pytest.mark.parametrize("layer", WITHOUT_USER_ERRORS)
def test_the_core_raises_no_user_errors(layer):
    for path in (ROOT / "jaxdiff" / layer).rglob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)
        }
        assert "UserError" not in names, path


def test_files_are_short():
    roots = ("jaxdiff", "tests", "studies", "benchmarks", "configs")
    long = {
        str(path.relative_to(ROOT)): count
        for root in roots
        for path in (ROOT / root).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def texts():
    """{name: text} of what people read: package, scripts, configs, studies, docs, README."""
    roots = ("jaxdiff", "configs", "studies", "docs", "benchmarks")
    paths = [p for root in roots for p in (ROOT / root).rglob("*") if p.suffix in (".py", ".md")]
    paths += [ROOT / "README.md", *ROOT.glob("*.py")]
    return {str(p.relative_to(ROOT)): p.read_text() for p in paths if p.name != "design.md"}


@pytest.mark.parametrize("word", OLD_WORDS)
def test_words_that_are_not_the_fields_do_not_occur(word):
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(word, line)
    ]
    assert found == []


def test_the_package_knows_no_study():
    for path in SOURCES:
        found = re.search(r"\b(toy|digits)\b", path.read_text(), re.IGNORECASE)
        assert not found, f"{path}: {found[0]}"
