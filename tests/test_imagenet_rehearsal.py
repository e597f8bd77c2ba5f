"""docs/imagenet.md from the archives to the evaluation, killed in every stage and continued.

Two processes of two devices, runs and samples on gs://, the configs of the recipe with small
networks, and synthetic pictures of all 1,000 classes in ILSVRC2012's archives.
"""

import json
import math
import signal
import time

import numpy as np
import pytest

from jaxdiff import files
from jaxdiff.arrays import load_npz
from jaxdiff.checkpoints.checkpointer import complete_steps
from jaxdiff.checkpoints.run import Run
from jaxdiff.data.dataset import INFO
from jaxdiff.data.prepared import PROGRESS
from tests.data import ilsvrc
from tests.programs import ended, run, start, start_together, wait_for

SIZE, SAMPLES = 16, 24
# What makes the networks of the recipe small, and a run short. Both are of one size, so that the
# second is compiled already.
SMALL = {
    "data.image_size": SIZE,
    "data.workers": 0,
    "model.channels": 32,
    "model.channel_mult": 1,
    "model.num_res_blocks": 1,
    "model.attention_resolutions": "()",
    "model.head_channels": 32,
    "training.dtype": "float32",
    "training.remat": False,
    "training.batch_size": 8,
    "training.warmup_steps": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 4,
    "training.snapshot_every": 4,
    "training.preview_every": 10_000,
    "mesh.fsdp": 2,
}
CONFIGS = {"main": "configs/imagenet64_edm.py", "guide": "configs/imagenet64_edm_guide.py"}
LONG = 10_000  # steps of a run that is going to be stopped
# On CPUs process 1 does not find what process 0 has compiled, which would wait for it in the first
# step, and for no longer than 30 s.
TOGETHER = {"devices": 2, "JAX_ENABLE_COMPILATION_CACHE": "false"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_recipe_of_imagenet_with_a_kill_in_every_stage(bucket, tmp_path):
    place, data = bucket / "rehearsal", tmp_path / "imagenet64"
    begin = time.monotonic()

    def done(stage):
        print(f"{stage}: {time.monotonic() - begin:.0f} s", flush=True)

    prepare(tmp_path / "downloads", data)
    copy(data, place / "imagenet64")
    done("prepared and copied")
    for name, stop in (("main", signal.SIGKILL), ("guide", signal.SIGTERM)):
        train(name, place, stop)
        done(f"{name} trained")
    flags = [
        *("sample.py", f"--model={place}/main:ema=0.05", f"--guide={place}/guide:ema=0.1"),
        *("--weight=1.7", "--steps=3", f"--num_samples={SAMPLES}", "--shard_size=4"),
        "--batch_size=4",
    ]
    sample(flags, place / "samples")
    done("sampled")
    status, _, err = run(*flags, f"--out={tmp_path / 'alone'}", devices=2)
    assert status == 0, err
    name = f"samples_{SAMPLES}x{SIZE}x{SIZE}x3.npz"
    assert files.read_bytes(place / "samples" / name) == (tmp_path / "alone" / name).read_bytes()
    done("sampled again without a kill")
    evaluate(place)
    done("evaluated")


def prepare(downloads, data):
    """Two pictures of each class and 100 of validation, in two shards; the first try is killed."""
    random = np.random.default_rng(0)
    some = [ilsvrc.jpeg(random, random.integers(40, 216, 3)) for _ in range(100)]
    wnids = sorted(ilsvrc.numbers())
    inside = {
        wnid: {f"{wnid}_{n}.JPEG": some[(7 * c + n) % 100] for n in range(2)}
        for c, wnid in enumerate(wnids)
    }
    outside = [
        (wnid, f"ILSVRC2012_val_{n + 1:08d}.JPEG", some[n]) for n, wnid in enumerate(wnids[:100])
    ]
    ilsvrc.archives(ilsvrc.Pictures(inside, outside), downloads)
    flags = ["imagenet", downloads, f"--image_size={SIZE}", f"--out={data}", "--workers=1"]
    flags = ["-m", "jaxdiff.data.prepare", *flags]
    killed = start(*flags)
    notes = data / PROGRESS
    wait_for(lambda: list(notes.glob("*train*.json")) or killed.poll() is not None, 240)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (data / INFO).exists()
    status, out, err = run(*flags)
    assert status == 0, err
    assert "train 2,000, validation 100" in out


def copy(folder, to):
    """Copies a folder to gs://, as `gcloud storage cp -r` does."""
    from google.cloud import storage

    bucket = storage.Client().bucket(to.parent.parent.name)
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{to.parent.name}/{to.name}/{path.relative_to(folder).as_posix()}"
            bucket.blob(name).upload_from_filename(path)


def train(name, place, stop):
    """Trains until a step is saved, stops one process by a signal, and continues to the end."""
    config = {**SMALL, "data.name": place / "imagenet64"}
    flags = [f"--config.{field}={value}" for field, value in config.items()]
    flags = ["train.py", f"--config={CONFIGS[name]}", f"--workdir={place / name}", *flags]
    found = Run(place / name)
    programs = start_together(*flags, f"--config.training.num_steps={LONG}", **TOGETHER)
    both = (found.checkpoints, found.snapshots)
    try:
        wait_for(now_and_then(lambda: all(map(complete_steps, both)), programs[0]), 900)
        programs[1].send_signal(stop)
        sent = time.monotonic()
    finally:
        ends = ended(programs, 240)
    print(f"both ended {time.monotonic() - sent:.0f} s after {stop.name}")
    statuses = [status for status, _, _ in ends]
    if stop == signal.SIGTERM:
        assert statuses == [143, 143], ends
    else:
        assert statuses[1] == -signal.SIGKILL
        assert statuses[0] not in (0, None), ends[0]
    steps = 4 * (max(complete_steps(found.checkpoints)) // 4 + 1)
    ends = ended(start_together(*flags, f"--config.training.num_steps={steps}", **TOGETHER), 900)
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert max(complete_steps(found.checkpoints)) == steps
    # No step was lost or is half there.
    assert sorted(complete_steps(found.snapshots)) == list(range(4, steps + 1, 4))
    assert sorted(map(int, files.names(found.snapshots))) == list(range(4, steps + 1, 4))


def now_and_then(condition, program):
    """The condition, asked once a second, as the emulator serves one request at a time.

    It is true as well once the program has ended.
    """

    def found():
        time.sleep(1)
        return program.poll() is not None or condition()

    return found


def sample(flags, out):
    """Two programs that never join sample shards; one is killed and started again."""

    def launch(index):
        # As a scheduler sets them; nobody listens there.
        where = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2"}
        return start(*flags, f"--out={out}", devices=2, JAX_PROCESS_ID=str(index), **where)

    programs = [launch(index) for index in range(2)]
    wait_for(now_and_then(lambda: files.names(out / "shards"), programs[1]), 900)
    programs[1].kill()
    programs[1].communicate()
    assert programs[1].returncode == -signal.SIGKILL
    ends = ended([programs[0], launch(1)], 900)
    assert [status for status, _, _ in ends] == [0, 0], ends
    # Both, if the second was started when the first had merged already.
    assert any(f"{SAMPLES} samples are in" in said for _, said, _ in ends)
    name = f"samples_{SAMPLES}x{SIZE}x{SIZE}x3.npz"
    assert sorted(files.names(out)) == ["grid.png", "manifest.json", name, "settings.json"]
    arrays = load_npz(out / name)
    assert arrays["arr_0"].shape == (SAMPLES, SIZE, SIZE, 3)
    assert len(np.unique(arrays["arr_1"])) == SAMPLES


def evaluate(place):
    """Measures the samples against the prepared data, both on gs://."""
    status, _, err = run(
        *("evaluate.py", f"--samples={place}/samples", f"--reference={place}/imagenet64"),
        *("--split=validation", "--features=efficientnet-lite0", "--metrics=fd,kid,precision"),
        *("--kid_size=20", "--kid_subsets=10"),
    )
    assert status == 0, err
    values = json.loads(files.read_text(place / "samples" / "metrics.json"))
    numbers = [value for value in flat(values) if isinstance(value, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))


def flat(values):
    """All values in nested dicts and lists."""
    if not isinstance(values, dict | list):
        return [values]
    inner = values.values() if isinstance(values, dict) else values
    return [each for value in inner for each in flat(value)]
