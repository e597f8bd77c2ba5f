"""Only a few modules touch the disk; the others call `jaxdiff.files`, which knows buckets too."""

import ast
import re

from tests.conftest import ROOT

# Modules that may, and why.
ALLOWED = {
    "jaxdiff/files.py",
    "jaxdiff/buckets.py",  # what files is made of
    "jaxdiff/locks.py",
    "jaxdiff/arrays.py",  # npz, of open files
    "jaxdiff/tables.py",  # rows at the end of a table
    "jaxdiff/cli.py",  # the folder of the user's cache
    "jaxdiff/plan/cache.py",  # the same
    "jaxdiff/plan/early.py",  # what a compiler dumps on this machine
    "jaxdiff/config/overrides.py",  # reads the config file, a program of the user's
    "jaxdiff/stopping.py",  # pipes of signals
    "jaxdiff/training/interrupt.py",
    "jaxdiff/parallel/watchdog.py",  # the last line of a program
    "jaxdiff/parallel/cluster.py",  # this machine's devices
    "jaxdiff/parallel/metadata.py",  # the same
}

MODULES = {"fcntl", "glob", "pathlib", "shutil", "tempfile"}  # not imported at all
# What is used of these has nothing to do with files.
OS = r"os\.(environ|fspath|getpid|kill|_exit|sysconf|cpu_count|sched_getaffinity|SEEK_END)"
OS += r"|os\.get_terminal_size|os\.path(\.(join|basename|dirname|splitext|expanduser)\b.*)?$"
NUMPY = r"(np|numpy)\.(load|save|savez|savez_compressed|fromfile|memmap|loadtxt|savetxt)"
# Methods of paths that touch the disk.
METHODS = {"absolute", "chmod", "exists", "expanduser", "glob", "is_dir", "is_file", "iterdir"}
METHODS |= {"mkdir", "open", "read_bytes", "read_text", "rename", "rglob", "rmdir", "rmtree"}
METHODS |= {"stat", "touch", "unlink", "walk", "write_bytes", "write_text"}
# Functions and methods of these names that are none of a path's.
OTHERS = r"files\..*|(run|self|Run\(.*\)|other|begun)\.exists|(data|Image|archive)\.open"


def found(tree):
    """What in a module touches files, in words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            yield from (f"import {n}" for n in [module, *names] if n in MODULES)
            if module == "os":
                yield "from os import"
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if text.startswith("os.") and not re.match(OS, text):
            yield text
        if re.fullmatch(NUMPY, text):
            yield text
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if function == "open" or (method in METHODS and not re.fullmatch(OTHERS, function)):
                yield function


def test_files_are_touched_in_one_place():
    wrong = []
    for path in sorted((ROOT / "jaxdiff").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name not in ALLOWED:
            wrong += [f"{name}: {what}" for what in found(ast.parse(path.read_text()))]
    assert wrong == []


def test_what_touches_files_is_found():
    lines = ["import shutil", "from pathlib import Path", "open('x')", "os.remove(p)", "np.load(f)"]
    lines += ["p.exists()", "(p / 'x').write_text('')", "os.path.exists(p)", "import os.path, glob"]
    assert all(list(found(ast.parse(line))) for line in lines)
    lines = ["files.exists(p)", "os.environ['X']", "text.replace('a', 'b')", "run.exists()"]
    assert not any(list(found(ast.parse(line))) for line in lines)
