"""Accelerators by name: devices that are not there, to compile for.

    v5e:8x8      one slice of 64 chips        h100:8    one host
    v5e:8x8*2    two slices, joined by DCN    h100:64   eight hosts of eight

Programs are compiled ahead of time by the compilers that the extra `plan` installs: libtpu for
TPUs, JAX's CUDA plugin for GPUs. Neither needs the hardware, or a driver.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re

from jaxdiff.chips import CHIPS
from jaxdiff.errors import UserError
from jaxdiff.numbers import whole

# What JAX and libtpu read when they start on a machine without accelerators, or beside another.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # any: unset, libtpu warns
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
HOST = 8  # GPUs of a host

# What differs between GPUs to XLA's compiler, beside what `jaxdiff.chips` has.
CUDA = {
    "a100": {"core_count": 108, "fpus_per_core": 64, "shared": 166_912, "l2": 41_943_040},
    "h100": {"core_count": 132, "fpus_per_core": 128, "shared": 232_448, "l2": 52_428_800},
    "h200": {"core_count": 132, "fpus_per_core": 128, "shared": 232_448, "l2": 62_914_560},
}
TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_core}
  shared_memory_per_block_optin: {shared}
  core_count: {core_count} fpus_per_core: {fpus_per_core} clock_rate_ghz: {clock}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 }}
device_description_str: "{kind}"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that are connected.

    Attributes:
      name: of the chip, a key of CHIPS.
      shape: of a slice of TPUs, in chips; of GPUs (their number,).
      slices: how many slices there are.
    """

    name: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self):
        several = f"*{self.slices}" if self.slices > 1 else ""
        return f"{self.name}:{'x'.join(map(str, self.shape))}{several}"

    @property
    def chip(self):
        """What one device has."""
        return CHIPS[self.name]

    @property
    def chips(self):
        """How many are paid for."""
        count = self.slices
        for side in self.shape:
            count *= side
        return count

    @property
    def size(self):
        """How many devices JAX sees."""
        return self.chips * (2 if self.name == "tpu7x" else 1)

    @property
    def fast(self):
        """How many of the devices share the fast network."""
        return self.size // self.slices if self.chip.platform == "tpu" else min(self.size, HOST)

    def devices(self):
        """Descriptions of the devices, which programs can be compiled for.

        Raises:
          UserError: if the compiler is not installed.
        """
        from jax.experimental import topologies

        if (missing := self.missing()) is not None:
            raise UserError(missing)
        if self.chip.platform == "gpu":
            hosts = -(-self.size // HOST)
            described = topologies.get_topology_desc(
                platform="cuda",
                topology=f"1x{hosts}x{self.size // hosts}",
                target_config=_target(self.name),
            )
            return described.devices
        options = {"chip_config_name": "megacore"} if self.name == "v4" else {}
        if self.chips == self.slices:
            options["chips_per_host_bounds"] = (1, 1, 1)
        if self.slices > 1:
            options["num_slices"] = self.slices
        shape = "x".join(map(str, self.shape))
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{self.name}:{shape}", **options
        )
        return described.devices

    def missing(self):
        """A sentence if the compiler is not installed, else None."""
        package = "libtpu" if self.chip.platform == "tpu" else "jax_plugins.xla_cuda13"
        if _installed(package):
            return None
        return (
            f"The compiler for {self.name} is not installed: pip install 'jaxdiff[plan]', which "
            "needs no accelerator."
        )

    def compiler(self):
        """Names and versions of what compiles for it."""
        names = ["jax", "jaxlib"]
        names += ["libtpu"] if self.chip.platform == "tpu" else ["jax-cuda13-pjrt"]
        return {name: importlib.metadata.version(name) for name in names}


def ready():
    """Sets what JAX and libtpu read when they start; before either is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def parse_topology(text):
    """The Topology of a text such as v5e:8x8, v5p:4x4x4*2 or h100:64.

    Raises:
      UserError: if there is no such thing.
    """
    match = re.fullmatch(r"(\w+):([\dx]+)(?:\*(\d+))?", text.strip().lower())
    name, shape, slices = match.groups() if match else (text.partition(":")[0], "", None)
    if name not in CHIPS:
        raise UserError(
            f"--topology {text} is unknown: give one of {', '.join(CHIPS)} with its size, such as "
            "v5e:8x8, v5e:8x8*2 (two slices), v5p:4x4x4 or h100:64."
        )
    chip, count = CHIPS[name], 1 if slices is None else whole(slices, 2**10)
    sides = tuple(int(side) for side in shape.split("x") if side)
    if chip.platform == "gpu":
        gpus = sides[0] if len(sides) == 1 and slices is None else 0
        if gpus not in (1, 2, 4, 8) and (gpus % HOST or not 0 < gpus <= 2**14):
            raise UserError(
                f"--topology {text} is unknown: {name} comes as 1, 2, 4 or 8 devices, or hosts of "
                f"{HOST}, such as {name}:8 or {name}:64."
            )
    elif "x".join(map(str, sides)) not in chip.slices or not count:
        raise UserError(
            f"--topology {text} is unknown: slices of {name} are {', '.join(chip.slices)}, and "
            f"several are written {name}:{chip.slices[1]}*2."
        )
    return Topology(name, sides, count)


def _installed(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _target(name):
    chip, hopper = CHIPS[name], name != "a100"
    return TARGET.format(
        **CUDA[name],
        shared_core=233_472 if hopper else 167_936,
        clock=1.98 if hopper else 1.41,
        bandwidth=int(chip.hbm_bandwidth),
        memory=chip.hbm_bytes,
        major=9 if hopper else 8,
        kind=chip.kind,
    )
