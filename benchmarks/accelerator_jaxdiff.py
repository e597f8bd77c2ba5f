"""This project's side of benchmarks/accelerator.py, in a process of its own.

    python benchmarks/accelerator_jaxdiff.py '{"rows": [...], "steps": 10, "small": false}'

All programs begin to be compiled at once, a few at a time and the most important first; what is
measured is asked for by and by.
"""

import concurrent.futures
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests

PROBE = 8  # samples by which the memory of a batch is estimated
ROOM = 0.85  # of the memory, for what is estimated: it leaves out temporaries
ADM64 = "configs/adm/imagenet64.py"
CLASSIFIER = "configs/adm/classifier64.py"
EDM, GUIDE = "configs/imagenet64_edm.py", "configs/imagenet64_edm_guide.py"
# Of a rehearsal.
SMALL = {
    "data.image_size": 8,
    "model.channels": 16,
    "model.channel_mult": (1, 2),
    "model.num_res_blocks": 1,
    "model.attention_resolutions": (4,),
    "model.head_channels": 16,
}


def read(name, small):
    """A config in bfloat16, as it is or tiny."""
    from jaxdiff.config import replaced
    from jaxdiff.config.overrides import read_config_file

    config = replaced(read_config_file(name), {"training.dtype": "bfloat16"})
    return replaced(config, SMALL) if small else config


class Training:
    """A training step on one device, in as few parts as the memory allows.

    Arguments:
      row: batch_size, remat.
      spec: of the process.
    """

    def __init__(self, row, spec):
        from benchmarks import network

        config = read(ADM64, spec["small"])
        fields = {"batch_size": row["batch_size"], "remat": row["remat"]}
        self.config, self.steps = network.with_training(config, **fields), spec["steps"]
        self.network = network

    def compile(self):
        """Compiles the step, in more parts where it needs more memory than there is."""
        limit, parts, size = memory_limit(), 1, self.config.training.batch_size
        one = self.network.with_training(self.config, batch_size=PROBE)
        each = self.network.kept_bytes(one) / PROBE if limit else 0
        while limit and each * size / parts > ROOM * limit and parts < size:
            parts *= 2
        while True:
            config = self.network.with_training(self.config, accumulate=parts)
            step, shapes = self.network.step_of(config, values=False)
            self.compiled, self.seconds = self.network.compiled_of(step, shapes)
            self.bytes, self.run_config = self.network.peak_bytes(self.compiled), config
            if not limit or (self.bytes or 0) <= limit or parts >= size:
                return
            parts *= 2

    def measure(self):
        """The fields of the row."""
        config, size = self.run_config, self.config.training.batch_size
        _, arguments = self.network.step_of(config, values=True)
        seconds = self.network.time_step(self.compiled, self.steps, *arguments)
        flops = self.network.flops_of(self.network.step_of, config)
        return {
            "parts": config.training.accumulate,
            "seconds": seconds,
            "images_per_s": size / seconds,
            "flops": flops,
            "utilisation": self.network.utilisation(flops, seconds, config),
            "bytes": self.bytes,
            "compile_s": self.seconds,
        }


class Sampling:
    """Guided sampling of one batch on one device, its steps timed and multiplied.

    Arguments:
      row: guide, "classifier" or "weaker"; batch_size; num_steps.
      spec: of the process.
    """

    def __init__(self, row, spec):
        from benchmarks import network

        self.row, self.small, self.steps, self.network = row, spec["small"], spec["steps"], network

    def job(self, mesh):
        """The request, with parameters made up."""
        import jaxdiff
        from jaxdiff.config import DDPM, Autoguidance, ClassifierGuidance, Heun, replaced

        def model(name, **values):
            config = replaced(read(name, self.small), values)
            shapes = jaxdiff.network(config).shapes
            params = self.network.made_up_params(shapes)
            return jaxdiff.TrainedModel(config=config, parameters=params, mesh=mesh)

        steps, size = self.row["num_steps"], self.row["batch_size"]
        if self.row["guide"] == "classifier":
            main, guide = model(ADM64), ClassifierGuidance(model(CLASSIFIER), 1.0)
            sampler = DDPM(steps=steps)
        else:
            main, guide = model(EDM), Autoguidance(model(GUIDE), 1.7)
            sampler = Heun(steps=steps, clip=False)
        return main.job(size, batch_size=size, sampler=sampler, guidance=guide, together=True)

    def compile(self):
        """Compiles the steps that there are most of; Heun's last is of another kind."""
        from jaxdiff.plan import plans

        self.made = self.job(self.network.one_device())
        self.program = most_turns(self.made)
        self.compiled, self.seconds = self.network.compiled_of(
            self.program.function, self.program.arguments
        )
        plain = most_turns(self.job(plans.here()))
        self.flops = sum(plans.counted([plain])[plain.name].values())

    def measure(self):
        """The fields of the row."""
        import jax
        import numpy as np

        from jaxdiff.sampling.pipeline import _begin

        job, pipeline = self.made, self.made.pipeline
        _, _, _, seed, _, _, grid, guidance, cads, *_ = self.program.arguments
        numbers = np.arange(job.batch_size, dtype=np.int32)
        batch = (job.params(), seed, numbers, job.cond)
        values, conditions = _begin(pipeline, *batch, grid.levels[0], guidance, None)
        rounds = min(self.steps, self.program.turns)

        def run(count):
            bounds = np.int32(0), np.int32(count)
            given = (*batch, grid, guidance, cads, bounds, conditions, values)
            jax.block_until_ready(self.compiled(*given))

        run(1)
        start = time.perf_counter()
        run(rounds)
        step = (time.perf_counter() - start) / rounds
        # Heun's last step is half of one.
        each = job.evaluations["model"] / pipeline.sampler.evaluations
        return {
            "parts": 1,
            "step_s": step,
            "seconds": step * each,
            "images_per_s": job.batch_size / (step * each),
            "flops": self.flops * each,
            "utilisation": self.network.utilisation(self.flops, step, job.model.config),
            "bytes": self.network.peak_bytes(self.compiled),
            "compile_s": self.seconds,
        }


def most_turns(job):
    """Of the programs of a sampling job the one whose loop turns most."""
    from jaxdiff.plan import programs

    return max(programs.sampling(job), key=lambda program: program.turns)


def memory_limit():
    """Bytes that JAX may take of the device; None where it does not say."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def ready(spec):
    """What `answer_requests` asks for; begins to compile all rows."""
    import jax

    from jaxdiff import cli

    cli.start_jax(False)  # what an earlier run has compiled is kept
    made = {
        row["name"]: (Sampling if "guide" in row else Training)(row, spec) for row in spec["rows"]
    }
    pool = concurrent.futures.ThreadPoolExecutor(spec["at_once"])
    compiled = {name: pool.submit(each.compile) for name, each in made.items()}
    device = jax.devices()[0]
    about = {"device": device.device_kind, "version": f"jax {jax.__version__}"}
    return {**about, "memory": memory_limit()}, {"made": made, "compiled": compiled}


def wait(functions, seconds):
    """Waits until all is compiled, or so long: {"done": names}."""
    compiled = functions["compiled"]
    concurrent.futures.wait(compiled.values(), timeout=max(seconds, 0))
    return {"done": [name for name, each in compiled.items() if each.done()]}


def measure(functions, name):
    """The fields of a row, or {"error": what went wrong}."""
    made = functions["made"].pop(name)  # and its memory with it
    try:
        functions["compiled"][name].result()
        return made.measure()
    except Exception as error:  # whatever it is, other rows can be measured
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


if __name__ == "__main__":
    answer_requests(lambda: ready(json.loads(sys.argv[1])), {"wait": wait, "measure": measure})
