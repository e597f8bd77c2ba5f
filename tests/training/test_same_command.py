"""All processes of a training are started by the same command."""

import pytest

from jaxdiff.config import replaced
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.training import loop
from tests.training import linear

WORKDIR = "runs/a"


def meet(monkeypatch, other):
    """Checks beside a process that was given `other`: (config, workdir, restart, profile)."""
    theirs, mine = [], []

    def note(number):
        theirs.append(number)
        return [number]

    monkeypatch.setattr(processes, "everywhere", note)
    loop.workdir_lib.check_same_command(*other)
    monkeypatch.setattr(
        processes, "everywhere", lambda n: mine.append(n) or [theirs[len(mine) - 1], n]
    )
    monkeypatch.setattr(processes, "count", lambda: 2)
    loop.workdir_lib.check_same_command(linear.config(), WORKDIR, False, ())


@pytest.mark.parametrize(
    ("fields", "workdir", "restart", "profile", "named"),
    [
        ({"training.log_every": 7}, WORKDIR, False, (), "--config:"),
        ({"training.learning_rate": 0.5}, "runs/b", False, (), "--config and --workdir:"),
        ({}, WORKDIR, True, (20, 5), "--restart and --profile:"),
    ],
)
def test_another_command_in_one_process_is_refused(
    monkeypatch, fields, workdir, restart, profile, named
):
    with pytest.raises(UserError, match=f"2 processes were given different {named}"):
        meet(monkeypatch, (replaced(linear.config(), fields), workdir, restart, profile))


def test_the_same_command_is_not(monkeypatch):
    meet(monkeypatch, (linear.config(), WORKDIR, False, ()))
