"""What a start costs: CPU seconds from a process's beginning to its first step or first samples.

    python benchmarks/start.py
    python benchmarks/start.py --config configs/digits_edm.py --rounds 5 --json start.json

Runs train.py and sample.py in processes of their own, which end after the first training step and
the first batch of samples: once with an empty compilation cache, and then with the one that this
leaves. Prints CPU seconds of all threads, the median of a process's rounds: of a busy machine they
say more than the time that passes. Files are written to a temporary folder.
"""

import json
import os
import pathlib
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}


class Clock:
    """Divides this process's CPU time into parts, and each into what JAX did and the rest.

    Attributes:
      spent: {part: {"tracing", "lowering", "compiling", "rest": CPU seconds}}; compiling is also
        reading compiled programs from the cache.
      programs: names of those that were compiled or read, in their order.
    """

    def __init__(self):
        import jax

        self.spent, self.programs = {}, []
        self._kinds, self._sums, self._since = [], {}, 0.0
        jax.monitoring.register_scalar_listener(self._begin)
        jax.monitoring.register_event_duration_secs_listener(self._end)

    def _count(self):
        now, kind = time.process_time(), self._kinds[-1] if self._kinds else "rest"
        self._sums[kind] = self._sums.get(kind, 0.0) + now - self._since
        self._since = now

    def _begin(self, event, _, **__):
        if event in KINDS:
            self._count()
            self._kinds.append(KINDS[event])

    def _end(self, event, _, fun_name="", **__):
        if event in KINDS:
            self._count()
            if self._kinds.pop() == "compiling":
                self.programs.append(fun_name)

    def end(self, part):
        """Ends a part, which began where the one before ended."""
        self._count()
        self.spent[part], self._sums = self._sums, {}

    def finish(self, part, out):
        """Ends the last part, writes what was counted, and ends the process."""
        self.end(part)
        result = {"parts": self.spent, "programs": self.programs}
        pathlib.Path(out).write_text(json.dumps(result))
        os._exit(0)


def around(owner, name, before=None, after=None):
    """Replaces a function by one that calls `before` and, with its result, `after`."""
    function = getattr(owner, name)

    def replacement(*args, **kwargs):
        if before:
            before()
        result = function(*args, **kwargs)
        if after:
            after(result)
        return result

    setattr(owner, name, replacement)


def watch_training(clock, out):
    """Ends the parts of train.py."""
    import jax

    from jaxdiff.training import loop

    def started(result):
        jax.block_until_ready(result[0])
        clock.end("initial values")

    def stepped(pace, sums):
        jax.block_until_ready(sums)
        clock.finish("first step", out)

    around(loop, "train", before=lambda: clock.end("imports"))
    around(loop.workdir_lib, "start", lambda: clock.end("preparation"), started)
    loop.Pace.__call__ = stepped


def watch_sampling(clock, out):
    """Ends the parts of sample.py."""
    import jax

    from jaxdiff.sampling import job, trained_model

    def read(params):
        jax.block_until_ready(params)
        clock.end("parameters")

    around(trained_model, "load", before=lambda: clock.end("imports"))
    around(job.Job, "params", lambda: clock.end("preparation"), read)
    around(job.Job, "sample", after=lambda _: clock.finish("first batch", out))


WATCH = {"train.py": watch_training, "sample.py": watch_sampling}


def watched(script, out, *arguments):
    """Runs a script in this process, which ends after the last part."""
    WATCH[script](Clock(), out)
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def start(script, arguments, cache):
    """What the start of a script in a new process costs, as Clock.finish writes it."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/result.json"
        command = [sys.executable, __file__, "--watch", script, out]
        command += [text.replace("FOLDER", folder) for text in arguments]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(pathlib.Path(out).read_text())


def median(results):
    """One result whose times are the medians of those of several."""
    parts = {}
    for part, kinds in results[0]["parts"].items():
        every = {kind: [r["parts"][part].get(kind, 0.0) for r in results] for kind in kinds}
        parts[part] = {kind: statistics.median(times) for kind, times in every.items()}
    return {"parts": parts, "programs": results[0]["programs"]}


def measure(config, num_samples, rounds):
    """{(script, "cold" or "warm"): what its start costs}."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run, never = f"{folder}/run", 10**6
        periods = [f"--config.training.{name}_every={never}" for name in ("preview", "snapshot")]
        train = ["--config", config, "--config.training.num_steps=1", *periods]
        # The run that is sampled; also prepares the data, where the config does.
        command = [sys.executable, "train.py", *train, "--workdir", run]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        sample = ["--model", run, "--num_samples", str(num_samples), "--out", "FOLDER/samples"]
        commands = {"train.py": [*train, "--workdir", "FOLDER/run"], "sample.py": sample}
        for script, arguments in commands.items():
            cache = f"{folder}/cache/{script}"
            found[script, "cold"] = start(script, arguments, cache)
            results = [start(script, arguments, cache) for _ in range(rounds)]
            found[script, "warm"] = median(results)
    return found


def rows(found):
    """Of the table: (script, cache, part, {kind: CPU seconds}); part "all" sums up the others."""
    for (script, cache), result in found.items():
        total = {}
        for part, kinds in result["parts"].items():
            yield script, cache, part, kinds
            total = {kind: total.get(kind, 0) + kinds.get(kind, 0) for kind in {*total, *kinds}}
        yield script, cache, f"all, {len(result['programs'])} programs", total


def table(found):
    """Markdown."""
    kinds = ("tracing", "lowering", "compiling", "rest")
    lines = [["", "cache", "part", "CPU s", *kinds], ["---"] * (4 + len(kinds))]
    for script, cache, part, spent in rows(found):
        values = [sum(spent.values()), *(spent.get(kind, 0.0) for kind in kinds)]
        lines.append([script, cache, part, *(f"{value:.2f}" for value in values)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main():
    from jaxdiff import cli
    from jaxdiff.config import Range

    positive = Annotated[int, Range(1, 2**20)]
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "config", default="configs/digits.py", help="Config that is trained")
    cli.add_flag(parser, "num_samples", positive, 100, "That are sampled")
    cli.add_flag(parser, "rounds", positive, 3, "How often each is measured with a full cache")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    found = measure(args.config, args.num_samples, args.rounds)
    print(table(found))
    if args.json:
        results = [{"script": s, "cache": c, **result} for (s, c), result in found.items()]
        pathlib.Path(args.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watch"]:
        watched(*sys.argv[2:])
    else:
        main()
