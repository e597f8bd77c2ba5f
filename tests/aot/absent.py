"""Devices that are not there, and the smallest network that has every kind of block."""

import os

import jax
import pytest

from jaxdiff.config import (
    EDM,
    DataConfig,
    Heun,
    Label,
    RunConfig,
    TrainingConfig,
    UNetConfig,
    replaced,
)
from jaxdiff.plan import hardware
from tests.conftest import DEVICES

hardware.ready()


def topology(text):
    """The Topology; skips the test where its compiler is not installed."""
    found = hardware.parse_topology(text)
    if (missing := found.missing()) is not None:
        pytest.skip(missing)
    # The CPU's compiler has its flags; the TPU's ends the process where it does not know one.
    jax.devices()
    os.environ["XLA_FLAGS"] = DEVICES
    return found


def config(**values):
    """Two levels: blocks that keep, widen and resize, attention between, dropout, a head.

    As small as it can be: the TPU's compiler takes twice as long for images twice as wide.
    """
    made = RunConfig(
        data=DataConfig(name="none", image_size=16),
        model=UNetConfig(
            channels=32,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(),
            head_channels=32,
            dropout=0.1,
            conditions=(Label(10),),
        ),
        diffusion=EDM(data_std=0.5, uncertainty=True, condition_dropout=0.1),
        training=TrainingConfig(batch_size=32, power_ema=(0.05,), dtype="bfloat16"),
        sampling=Heun(steps=4),
    )
    return replaced(made, {k.replace("__", "."): v for k, v in values.items()})
