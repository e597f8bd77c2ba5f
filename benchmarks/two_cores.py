"""How two CPU cores are used best: a training step by two threads, devices or processes.

    python benchmarks/two_cores.py
    python benchmarks/two_cores.py --config configs/digits_edm.py --rounds 30 --json two_cores.json

Four ways are timed in turn, a few steps at a time, in wall time:

    one core        one process on one core
    two threads     one process, one device of two threads: what happens by itself
    two devices     one process of two devices, --xla_force_host_platform_device_count=2, and a mesh
    two processes   one device and one core each, joined by jax.distributed (gloo)

The batch is the same in all, and divided where there are two devices. Cores should be idle: prints
the load average of a minute before and after, the least and the median time of a step, and the
median over the rounds of the ratio to two threads, with the middle half of them.
"""

import contextlib
import json
import os
import pathlib
import socket
import statistics
import sys
from typing import Annotated

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import contenders
from jaxdiff import cli
from jaxdiff.config import Range, to_dict
from jaxdiff.errors import UserError

BASELINE = "two threads"
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
WARM_UP = 2


class Together:
    """Several processes that do the same at once.

    Arguments:
      processes: list of Contender.
    """

    def __init__(self, processes):
        self._processes = processes

    def start(self):
        """Waits until all are ready; what the first says."""
        first, *_ = [each.start() for each in self._processes]
        return first

    def ask(self, do, **details):
        """The answer of the first, when all have answered."""
        for each in self._processes:
            each.request(do, **details)
        first, *_ = [each.answer() for each in self._processes]
        return first

    def end(self):
        """Ends them."""
        for each in self._processes:
            each.end()


def ways(config):
    """{way: Together}, started but not ready."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    command = [sys.executable, __file__, "worker", json.dumps(to_dict(config))]
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    joined = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ONE_CORE}

    def process(core=None, **environment):
        return contenders.Contender(command, {"JAX_PLATFORMS": "cpu", **environment}, core)

    return {
        "one core": Together([process(cores[0], XLA_FLAGS=ONE_CORE)]),
        BASELINE: Together([process(XLA_FLAGS="")]),
        "two devices": Together([process(XLA_FLAGS=TWO_DEVICES)]),
        "two processes": Together(
            [process(core, JAX_PROCESS_ID=str(i), **joined) for i, core in enumerate(cores)]
        ),
    }


def ready(values):
    """What `answer_requests` asks for: a step of a config's dict on all devices."""
    import jax

    from benchmarks import network
    from jaxdiff.config import from_dict
    from jaxdiff.parallel import cluster, processes
    from jaxdiff.parallel.mesh import make_mesh

    processes.initialize(cluster.find())
    mesh = make_mesh()
    step, (*held, batch) = network.step_of(from_dict(values), values=True, mesh=mesh)

    def take_step():
        held[:] = jax.block_until_ready(step(*held, batch))

    take_step()
    return {"devices": mesh.size, "version": f"jax {jax.__version__}"}, {"step": take_step}


def main():
    if sys.argv[1:2] == ["worker"]:
        contenders.answer_requests(
            lambda: ready(json.loads(sys.argv[2])), {"time": contenders.wall_seconds}
        )
        return
    parser = cli.Parser(__doc__)
    cli.add_config(parser, required=False)
    cli.add_flag(parser, "rounds", Annotated[int, Range(3, 10_000)], 20, "How often each is timed")
    cli.add_flag(parser, "steps", Annotated[int, Range(1, 10_000)], 5, "In a round")
    cli.add_flag(parser, "json", help="File to write the measurements to")
    cli.run(_measure, parser)


def _measure(args):
    from configs import digits

    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("This process may use one CPU core: run it where there are two.")
    config = args.config or digits.get_config()
    before = os.getloadavg()[0]
    with contextlib.ExitStack() as ends:
        found = ways(config)
        for each in found.values():
            ends.callback(each.end)
        for each in found.values():
            ready = each.start()
            each.ask("time", name="step", calls=WARM_UP)
        times = contenders.in_turn(
            found,
            args.rounds,
            lambda each: each.ask("time", name="step", calls=args.steps)["seconds"],
        )
    load = (before, os.getloadavg()[0])
    print(f"batch {config.training.batch_size}, {ready['version']}, load {load[0]} and {load[1]}")
    print("| | least ms a step | median | of two threads |\n| --- | --- | --- | --- |")
    for name, seconds in times.items():
        low, middle = 1e3 * min(seconds), 1e3 * statistics.median(seconds)
        own = "{:.3f} ({:.3f} to {:.3f})".format(*contenders.ratio(seconds, times[BASELINE]))
        print(f"| {name} | {low:.1f} | {middle:.1f} | {'' if name == BASELINE else own} |")
    if args.json:
        result = {"load": load, "config": to_dict(config), "seconds": times, **ready}
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
