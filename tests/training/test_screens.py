import jax
import pytest
from etils import epath

from configs import digits, imagenet64_edm
from jaxdiff import files
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import replaced
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import screens
from jaxdiff.training.compiled import state_template
from jaxdiff.training.metrics import Constants
from jaxdiff.training.task import Task


def screen(config, mesh, folder, capsys, examples=1000, **constants):
    """(stdout, stderr) of a start."""
    task = Task.of(config)
    found = Constants(config.training, examples, **constants)
    capsys.readouterr()
    screens.start(config, Run(folder), range(examples), mesh, state_template(task, mesh), found)
    return capsys.readouterr()


def test_a_start_fits_a_screen_and_has_the_facts(capsys, one_device, tmp_path):
    out, err = screen(digits.get_config(), one_device, epath.Path(tmp_path), capsys)
    assert out.count("\n") <= 24
    assert max(map(len, out.splitlines())) <= 100
    words = " ".join(out.split())
    assert "begins at step 0 of 1,500" in words
    assert "828,034:" in words
    assert "1,500 steps of 64 images" in words
    assert "1,000 examples of 8 x 8 x 1; the run takes 96,000, 96 epochs" in words
    assert "data 1 x fsdp 1: 1 cpu, in 1 process" in words
    assert "parameters 3.2 MiB, optimizer 6.3 MiB, EMA 3.2 MiB" in words
    assert (
        "checkpoints of 12.6 MiB, at most 3 at once, and snapshots of 3.2 MiB, 6 in the end"
        in words
    )
    assert "are free" in words
    assert err == ""


def test_of_a_large_run_on_devices_whose_peak_is_known(capsys, tmp_path):
    """100 GFLOP an image at 64 times 197 TFLOP/s: 126,080 images/s, or 40 % of them."""
    config = replaced(imagenet64_edm.get_config(), {"training.num_steps": 524_288})
    mesh = jax.sharding.AbstractMesh((8, 8), ("data", "fsdp"))
    mesh = mesh_lib.make_mesh(8)
    out, _ = screen(config, mesh, epath.Path(tmp_path), capsys, flops=2048 * 1e11, peak=64 * 197e12)
    words = " ".join(out.split())
    assert out.count("\n") <= 24
    assert "295,900,164:" in words
    assert "data 1 x fsdp 8: 8 cpu" in words
    assert "over the axis fsdp" in words
    assert "50,432 images/s expected at 40% of the peak, 0.246 days" in words
    assert "100 GFLOP an image, 126,080 images/s at the peak" in words


def test_a_disk_without_room_is_said_before_the_run(capsys, one_device, tmp_path, monkeypatch):
    config, run = digits.get_config(), Run(epath.Path(tmp_path))
    needs = 3 * 13_248_556 + 6 * 3_312_136
    for free, warned in ((needs, False), (needs - 2**20, True)):
        monkeypatch.setattr(files, "room", lambda path, free=free: (free, path))
        _, err = screen(config, one_device, run.folder, capsys)
        assert err.startswith("Warning:") == warned
    assert "1.0 MiB more than is free" in err
    # What is there already need not be free.
    (run.checkpoints / "500").mkdir(parents=True)
    (run.checkpoints / "500" / "file").write_bytes(b"0" * 2**20)
    assert screen(config, one_device, run.folder, capsys).err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.25, "7.2 s"), (125, "2 min 5 s"), (7_260, "2 h 1 min")]
)
def test_the_end_says_how_long_it_took(seconds, text, capsys):
    training = replaced(digits.get_config(), {"training.num_steps": 30}).training
    run = Run(epath.Path("runs/a"))
    screens.end(run, 30, training, (10, seconds, 0.25), False, None)
    out = capsys.readouterr().out
    assert f"10 steps in {text}: {640 / seconds:,.1f} images/s, 25% of the time" in out
    screens.end(run, 20, training, (0, 0.0, 0.0), True, 15)
    assert (
        "by SIGTERM and saved at step 20: the same command without --restart"
        in capsys.readouterr().out
    )
