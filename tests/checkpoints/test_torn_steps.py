"""Steps of which a copy, or a writer that was killed, has left a part: nothing takes them."""

import os

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer, posthoc_ema
from jaxdiff.checkpoints.run import Run, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import replicated
from jaxdiff.training.restart import set_history_aside
from tests.checkpoints import synthetic

LENGTH, TREE = 0.07, synthetic.shapes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return synthetic.make_run(tmp_path_factory.mktemp("whole") / "run", every=200)


def files_of(step):
    """Names of a step's files below it, in the order in which they were written."""
    found = files.walk(step)
    return sorted(found, key=lambda name: os.stat(step / name).st_mtime_ns)


def begun(whole, place, step):
    """A run with a config and a step of the whole one."""
    run = Run(place)
    files.copy(whole.config_file, run.config_file)
    for name in files.walk(whole.snapshots / str(step)):
        files.copy(whole.snapshots / str(step) / name, run.snapshots / str(step) / name)
    return run


def assert_not_taken(run):
    assert checkpointer.complete_steps(run.snapshots) == [200]
    assert run.places().keys() == {200}
    assert resolve(str(run.folder)).step == 200
    assert posthoc_ema.plan(run.folder, (LENGTH,)).step == 200
    for reference in (f"{run.folder}@400", f"{run.folder}@400:ema={LENGTH}"):
        with pytest.raises(UserError, match="step 400"):
            resolve(reference)


def test_a_step_in_a_bucket_is_taken_once_its_last_file_is_there(whole, bucket):
    run = begun(whole, bucket / "torn", 200)
    source, torn = whole.snapshots / "400", run.snapshots / "400"
    names = files_of(source)
    assert names[-1] == checkpointer.LAST
    for name in names:
        assert_not_taken(run)
        files.copy(source / name, torn / name)
    assert resolve(str(run.folder)).step == 400
    assert posthoc_ema.plan(run.folder, (LENGTH,)).step == 400


def test_what_is_moved_or_removed_in_a_bucket_looks_whole_at_no_time(whole, bucket, monkeypatch):
    """A kill at each copy and removal of --restart."""
    from jaxdiff import buckets

    class Killed(BaseException):
        pass

    run = begun(whole, bucket / "moved", 200)
    names = files.walk(whole.snapshots / "200")
    plain, steps = buckets.storage, []

    class Storage:
        def __init__(self, storage, allowed):
            self.storage, self.allowed = storage, allowed

        def __getattr__(self, name):
            return getattr(self.storage, name)

        def cp_file(self, *args):
            self.count()
            self.storage.cp_file(*args)

        def rm(self, paths):
            for path in [paths] if isinstance(paths, str) else paths:
                self.count()
                self.storage.rm(path)

        def count(self):
            steps.append(None)
            if len(steps) > self.allowed:
                raise Killed

    aside = run.folder / "before-restart-1"
    for allowed in (1, len(names) - 1, len(names), len(names) + 1, len(names) + 3):
        steps.clear()
        files.remove_tree(run.folder)
        begun(whole, run.folder, 200)
        with monkeypatch.context() as patch:
            patch.setattr(buckets, "storage", lambda path, n=allowed: Storage(plain(path), n))
            with pytest.raises(Killed):
                files.move(run.snapshots, aside / "snapshots", checkpointer.LAST)
        for folder in (run.snapshots, aside / "snapshots"):
            for step in checkpointer.complete_steps(folder):
                assert files.names(folder / str(step)) == files.names(whole.snapshots / "200")
    set_history_aside(run)


def test_a_step_on_a_disk_has_its_name_when_all_of_it_is_there(whole, tmp_path):
    run = begun(whole, epath.Path(tmp_path) / "run", 200)
    source, torn = whole.snapshots / "400", run.snapshots / "400.orbax-checkpoint-tmp"
    for name in files_of(source):
        assert_not_taken(run)
        files.copy(source / name, torn / name)
    assert_not_taken(run)
    files.move(torn, run.snapshots / "400")
    assert resolve(str(run.folder)).step == 400


def test_a_copy_on_a_disk_that_ended_early_is_refused_when_it_is_read(whole, tmp_path, one_device):
    """By the name of the step itself, as `cp` copies: what is read is whole or refused."""
    run = begun(whole, epath.Path(tmp_path) / "run", 200)
    source, torn = whole.snapshots / "400", run.snapshots / "400"
    shapes, shardings = synthetic.shapes(), jax.tree.map(lambda _: replicated(one_device), TREE)
    expected, refused = read_ema(resolve(str(whole.folder)), shapes, shardings), 0
    names = files_of(source)
    for name in names:
        files.copy(source / name, torn / name)
        reference = resolve(f"{run.folder}@400")
        try:
            got = read_ema(reference, shapes, shardings)
        except UserError:
            refused += 1
            with pytest.raises(UserError):
                posthoc_ema.average(run.folder, LENGTH, 400, synthetic.template(one_device))
        else:
            jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert 2 < refused < len(names)
