"""What libtpu has decided before it writes machine code, which takes it nearly all of its time.

It dumps the optimized and scheduled program, and which buffers share memory, after a twentieth of
the time or less; nothing that a plan tells comes later. So a process of its own compiles a program,
and is killed as soon as the dump is complete.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import jax

PERIOD = 0.2  # seconds from one look at the dump to the next
TEXT, BUFFERS = "*{}*.after_optimizations.txt", "*{}*.after_optimizations-buffer-assignment.txt"
# Written after both of them.
LAST = "*{}*.after_optimizations_after_buffer_assignment.txt"
NAME = "planned"  # of the function, by which its files are known
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),(.*)", re.MULTILINE)


def compiled(program, topology):
    """What compiling a Program for TPUs gives.

    Returns:
      {"stats": {name: bytes}, "hlo": text, "compile_s": CPU seconds}, as of `cache.compiled`.

    Raises:
      RuntimeError: if the compiler refuses the program, with what it says.
    """
    with tempfile.TemporaryDirectory(prefix="jaxdiff-plan-") as folder:
        folder = pathlib.Path(folder)
        about = {"topology": str(topology), **_export(program, folder / "program")}
        (folder / "about.json").write_text(json.dumps(about))
        seconds = _run_until_dumped(folder)
        (text,) = folder.glob(TEXT.format(NAME))
        (buffers,) = folder.glob(BUFFERS.format(NAME))
        stats = sizes(buffers.read_text())
        return {"stats": stats, "hlo": text.read_text(), "compile_s": seconds}


def sizes(text):
    """{name: bytes} as of `memory_analysis()`, from a dump of the assignment of buffers."""
    found = dict.fromkeys(("argument", "output", "alias", "temp", "generated_code"), 0)
    for size, kind in _ALLOCATION.findall(text):
        if re.search(r"color [1-9]", kind):
            continue  # on the chip
        is_result = "live-out" in kind
        if "parameter" in kind:
            found["argument"] += int(size)
            found["alias"] += is_result * int(size)
        elif not is_result and "preallocated-temp" in kind:
            found["temp"] += int(size)
        found["output"] += is_result * int(size)
    return found


def _export(program, path):
    """Writes a Program to a file; returns what else its process must know."""
    leaves, tree = jax.tree.flatten(program.arguments)
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def planned(*shapes):
        values = list(leaves)
        for place, value in zip(places, shapes, strict=True):
            values[place] = value
        return jax.tree.leaves(program.function(*jax.tree.unflatten(tree, values)))

    arguments = [leaves[place] for place in places]
    mesh = arguments[0].sharding.mesh
    exported = jax.export.export(jax.jit(planned), platforms=["tpu"])(*arguments)
    path.write_bytes(exported.serialize())
    return {"fsdp": mesh.shape["fsdp"], "donated": _donated(program, places, leaves)}


def _donated(program, places, leaves):
    """Numbers of the shapes, among the shapes alone, that the function may overwrite."""
    infos = jax.tree.leaves(program.function.trace(*program.arguments).args_info)
    if len(infos) != len(leaves):
        return []  # static values among them; such programs donate nothing
    return [n for n, place in enumerate(places) if infos[place].donated]


def _run_until_dumped(folder):
    """Runs `main` in a process of its own until the dump is there; returns its CPU seconds."""
    command = [sys.executable, "-m", "jaxdiff.plan.early", str(folder)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not any(folder.glob(LAST.format(NAME))):
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text(errors="replace"))
            time.sleep(PERIOD)
        return _cpu_seconds(process.pid)
    finally:
        process.kill()
        process.wait()


def _cpu_seconds(pid):
    """CPU seconds of a process so far; 0 where the system does not say."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(folder):
    """Compiles the program of a folder, and dumps into it."""
    from jaxdiff.parallel.mesh import make_mesh
    from jaxdiff.plan import hardware

    hardware.ready()
    about = json.loads((folder / "about.json").read_text())
    exported = jax.export.deserialize(bytearray((folder / "program").read_bytes()))
    devices = hardware.parse_topology(about["topology"]).devices()[: exported.nr_devices]
    mesh = make_mesh(about["fsdp"], devices)
    arguments = [
        jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding)
        for aval, sharding in zip(exported.in_avals, exported.in_shardings_jax(mesh), strict=True)
    ]

    def planned(*values):
        return list(exported.call(*values))

    function = jax.jit(
        planned,
        donate_argnums=about["donated"],
        out_shardings=list(exported.out_shardings_jax(mesh)),
    )
    function.lower(*arguments).compile(compiler_options={"xla_dump_to": str(folder)})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
