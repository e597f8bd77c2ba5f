import fcntl
import io
import os
import pty
import struct
import sys
import termios
import threading

import pytest

from jaxdiff import progress


def shown_on_a_terminal(columns, monkeypatch):
    """What a terminal of that width shows of ten steps."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    received = []
    reader = threading.Thread(target=read_to_the_end, args=(ours, received))
    reader.start()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        ten_steps()
    reader.join()
    os.close(ours)
    return b"".join(received).decode()


def read_to_the_end(terminal, received):
    try:
        while block := os.read(terminal, 4096):
            received.append(block)
    except OSError:
        pass  # the other end is closed


def ten_steps():
    with progress.progress_bar(20, "step", initial=10) as bar:
        for number in range(10):
            bar.set_postfix_str(f"loss {number}", refresh=False)
            bar.update()


@pytest.fixture
def always(monkeypatch):
    """A line is due at every step."""
    monkeypatch.setattr(progress, "PERIOD", 0)


def test_a_terminal_with_a_width_shows_a_bar_that_fits(monkeypatch):
    shown = shown_on_a_terminal(60, monkeypatch)
    assert "20/20" in shown
    assert max(len(line) for line in shown.replace("\n", "\r").split("\r")) <= 60


@pytest.mark.usefixtures("always")
def test_a_terminal_without_a_width_shows_lines(monkeypatch):
    lines = shown_on_a_terminal(0, monkeypatch).splitlines()
    assert len(lines) == 10
    assert all(f"{number} of 20 steps" in line for number, line in enumerate(lines, 11))
    assert "loss 9" in lines[-1]


@pytest.mark.usefixtures("always")
def test_a_file_receives_lines(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    ten_steps()
    lines = file.getvalue().splitlines()
    assert len(lines) == 10
    assert "\r" not in file.getvalue()


def test_lines_are_rare_and_the_last_says_how_far_it_came(monkeypatch):
    file, now = io.StringIO(), iter(range(0, 10**6, 10))  # each look at the clock is 10 s later
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bar(1000, "image") as bar:
        for _ in range(999):
            bar.update()
    lines = file.getvalue().splitlines()
    assert 999 / progress.PERIOD <= len(lines) <= 999 * 10 / progress.PERIOD + 1
    assert "999 of 1000 images" in lines[-1]


def test_what_is_quiet_shows_nothing(capsys):
    with progress.progress_bar(3, "image", quiet=True) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
