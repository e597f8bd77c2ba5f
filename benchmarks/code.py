"""How large the package is, and how many of its files one request crosses.

    python benchmarks/code.py lines     code lines: no blanks, comments or docstrings
    python benchmarks/code.py cycles    modules that import each other
    python benchmarks/code.py calls sample.py --model runs/digits --num_samples 4 --out samples/x
    python benchmarks/code.py calls train.py --config configs/digits.py --workdir runs/x

`calls` runs a program and lists the modules of jaxdiff in which at least one function was called.
Modules that only define classes or constants do not count; the core (models, diffusion, guidance,
samplers) is listed apart. `calls --batch` counts from the first training batch that is read to the
end of the first training step.
"""

import ast
import io
import pathlib
import runpy
import sys
import threading
import tokenize

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxdiff"
CORE = ("models", "diffusion", "guidance", "samplers")


def code_lines(path):
    """Number of lines of a Python file that hold code."""
    text = path.read_text("utf-8")
    documented = set()
    for node in ast.walk(ast.parse(text)):
        is_holder = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if is_holder and ast.get_docstring(node, clean=False) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored | {tokenize.ENDMARKER}:
            held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - documented)


def lines():
    """{package or file: code lines}, the total last."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0]
        found[part] = found.get(part, 0) + code_lines(path)
    return {**found, "total": sum(found.values())}


def module_name(path):
    """Such as jaxdiff.models.unet."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports():
    """{module: modules of the package that it imports at its top, as a file and by name}."""
    modules = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found = {}
    for name, path in modules.items():
        found[name] = set()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {n if n in modules else node.module for n in names} & set(modules)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(modules)
    return found


def cycles():
    """Lists of modules that import each other in a circle; each circle once."""
    graph, found, done = imports(), [], set()

    def visit(name, path):
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def calls(program, arguments, only_batch=False):
    """The modules of the package in which functions are called while a program runs."""
    called, is_counting = set(), [not only_batch]

    def note(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(PACKAGE)):
            return
        if only_batch:
            # From the loader that is asked for a batch, to the traced training step.
            is_counting[0] |= code.co_name in ("batches", "fetch")
        if is_counting[0] and code.co_name not in ("<module>", "<lambda>") and code.co_flags & 2:
            called.add(code.co_filename)

    sys.argv = [program, *arguments]
    sys.path.insert(0, str(ROOT))
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(module_name(pathlib.Path(path)) for path in called)


def main(command, *arguments):
    if command == "lines":
        for name, count in lines().items():
            print(f"{count:6,} {name}")
    elif command == "cycles":
        print("\n".join(" -> ".join(cycle) for cycle in cycles()) or "no cycle of imports")
    else:
        only_batch = "--batch" in arguments
        program, *others = [a for a in arguments if a != "--batch"]
        found = calls(program, others, only_batch)
        core = [name for name in found if name.split(".")[1:2] and name.split(".")[1] in CORE]
        print(*core, sep="\n")
        print(f"{len(core)} modules of the core, and beside them:")
        others = [name for name in found if name not in core]
        print(*others, sep="\n")
        print(f"{len(others)} modules")


if __name__ == "__main__":
    main(*sys.argv[1:])
