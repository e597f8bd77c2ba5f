"""Compiling, with progress, and what came of it kept on disk: compiling takes minutes."""

import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import re
import sys
import threading
import time
import zlib

from jaxdiff.plan import early

PERIOD = 30  # seconds from one line to the next
STATS = ("argument", "output", "alias", "temp", "generated_code")


def folder():
    """Where answers are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "jaxdiff" / "plan"


def compiled(program, topology, use_cache=True, full=False):
    """What compiling a Program gives: JSON values, which are kept.

    Args:
      program: a Program for devices of the topology.
      topology: a Topology.
      use_cache: whether an earlier answer will do.
      full: whether libtpu writes machine code too, which tells nothing but its size, and takes
        nearly all of the time.

    Returns:
      {"stats": {name: bytes} of `memory_analysis`, "hlo": the program's text, "compile_s": CPU
      seconds}; or {"needed": bytes, "compile_s": ...} of a program that is too large.
    """
    full = full or topology.chip.platform != "tpu"
    with _elapsed(f"Tracing {program.name}"):
        lowered = program.lower()
        source = lowered.as_text()
    about = json.dumps([str(topology), full, topology.compiler()], sort_keys=True)
    key = hashlib.sha256(about.encode() + source.encode()).hexdigest()
    path = folder() / f"{key[:32]}.json.gz"
    answer = _read(path) if use_cache else None
    if answer is None:
        with _elapsed(f"Compiling {program.name} for {topology}"):
            answer = _compile(lowered if full else None, program, topology)
        _write(path, answer)
    return answer


def _read(path):
    """What was kept, or None."""
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        return json.loads(gzip.decompress(path.read_bytes()))


def _write(path, answer):
    with contextlib.suppress(OSError):  # an answer that cannot be kept is an answer
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(gzip.compress(json.dumps(answer).encode()))
        part.replace(path)


def _compile(lowered, program, topology):
    start = time.process_time()
    try:
        if lowered is None:
            return early.compiled(program, topology)
        made = lowered.compile()
    except RuntimeError as error:  # of which JAX's are
        if (needed := _needed(str(error))) is None:
            raise
        return {"needed": needed, "compile_s": time.process_time() - start}
    seconds, memory = time.process_time() - start, made.memory_analysis()
    return {
        "stats": {name: getattr(memory, f"{name}_size_in_bytes") for name in STATS},
        "compile_s": seconds,
        "hlo": made.as_text(),
    }


def _needed(message):
    """Bytes that a program needs by the compiler's refusal, or None if it refuses otherwise."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    sizes = re.findall(r"\(?([\d.]+)([KMGT])\)?(?: exceeds| of)", message)
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return max((int(float(size) * units[unit]) for size, unit in sizes), default=0)


@contextlib.contextmanager
def _elapsed(doing):
    """Says on stderr, now and then, for how long something has been done."""
    done, start = threading.Event(), time.monotonic()

    def say():
        while not done.wait(PERIOD):
            print(f"{doing}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
