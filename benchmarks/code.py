"""How large the package is, and how many of its files one request and one batch cross.

    python benchmarks/code.py lines               code lines: no blanks, comments or docstrings
    python benchmarks/code.py cycles              modules that import each other
    python benchmarks/code.py request RUN         modules in a sampling request
    python benchmarks/code.py batch CONFIG.py     modules from a batch on the disk to its gradient
    python benchmarks/code.py command sample.py --model RUN --num_samples 4 --out samples/x

The last three list the modules of jaxdiff in which at least one function was called; the core
(models, diffusion, guidance, samplers) apart. `request` is `model.sample(...)` of a model whose
parameters were read; `batch` is the reading of one batch and the tracing of the training step;
`command` is a whole program.
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


class Calls:
    """The modules of the package in which functions are called while it is entered."""

    def __init__(self):
        self.files = set()

    def _note(self, frame, event, _):
        code = frame.f_code
        is_function = code.co_flags & 2 and code.co_name not in ("<module>", "<lambda>")
        if event == "call" and is_function and code.co_filename.startswith(str(PACKAGE)):
            self.files.add(code.co_filename)

    def __enter__(self):
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def report(self):
        """Prints the modules."""
        found = sorted(module_name(pathlib.Path(path)) for path in self.files)
        core = [name for name in found if len(p := name.split(".")) > 1 and p[1] in CORE]
        print(*core, sep="\n")
        print(f"{len(core)} modules of the core, and beside them:")
        print(*(others := [name for name in found if name not in core]), sep="\n")
        print(f"{len(others)} modules; {len(found)} in all")


def request(run):
    """Counts the modules of a guided sampling request."""
    import jaxdiff

    model, arguments = jaxdiff.load(run), {"sampler": jaxdiff.Heun(steps=3)}
    _ = model.params  # read before
    guidance = [jaxdiff.CFG(2.0, interval=(0.1, 1.0))]
    with Calls() as calls:
        model.sample(4, guidance=guidance, **arguments)
    calls.report()


def batch(name):
    """Counts the modules from a batch to its gradient."""
    import jax

    from jaxdiff.config import config_from, import_modules
    from jaxdiff.data.pipeline import batches
    from jaxdiff.data.source import open_split
    from jaxdiff.training.step import summing_step, zero_sums
    from jaxdiff.training.task import Task

    config, _ = config_from(["--config", name])
    import_modules([config.data.prepare.partition(":")[0]])
    source, task = open_split(config.data, "train", config.model.conditions), Task.of(config)
    state, sums = jax.eval_shape(task.init), zero_sums(task.objective.terms)
    step = summing_step(task)
    with Calls() as calls:
        rows = next(batches(source, config.training.batch_size, config.seed))
        jax.make_jaxpr(step)(state, sums, rows)
    calls.report()


def command(program, *arguments):
    """Counts the modules of a program."""
    sys.argv = [program, *arguments]
    with Calls() as calls:
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    calls.report()


def main(what, *arguments):
    sys.path.insert(0, str(ROOT))
    if what == "lines":
        for name, count in lines().items():
            print(f"{count:6,} {name}")
    elif what == "cycles":
        print("\n".join(" -> ".join(cycle) for cycle in cycles()) or "no cycle of imports")
    else:
        {"request": request, "batch": batch, "command": command}[what](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
