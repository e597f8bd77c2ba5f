"""Progress on stderr: a bar where it is a terminal with a width, rare plain lines elsewhere."""

import os
import sys
import time

from tqdm import tqdm

PERIOD = 30  # seconds from one plain line to the next
FORMAT = (
    "{percentage:.0f} %: {n_fmt} of {total_fmt} {unit}s"
    " [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


def progress_bar(total, unit, initial=0, quiet=False):
    """What shows how far some work is: `update(count)`, `set_postfix_str(text)`, `close()`.

    Args:
      total: how much there is to do.
      unit: what is counted, such as "image".
      initial: how much of it has been done before; no rate is computed from that.
      quiet: whether to show nothing.
    """
    if quiet or _width() > 0:
        return tqdm(total=total, initial=initial, unit=unit, dynamic_ncols=True, disable=quiet)
    return _Lines(total, unit, initial)


def _width():
    """Columns of the terminal that stderr is; 0 where it is none, or reports none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0


class _Lines:
    """Those of tqdm's methods and attributes that are used here, printed as plain lines."""

    def __init__(self, total, unit, initial):
        self.total, self.unit, self.initial, self.n = total, unit, initial, initial
        self._postfix, self._printed = "", None
        self._begun = self._last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, count=1):
        """Counts what was done; prints a line if the last one is PERIOD seconds old."""
        self.n += count
        if time.monotonic() - self._last >= PERIOD:
            self._print()

    def set_postfix_str(self, text, refresh=False):
        """Sets what ends the next line; prints one now if `refresh`."""
        self._postfix = text
        if refresh:
            self._print()

    def close(self):
        """Prints how far the work came, if no line has said so."""
        if self.n not in (self._printed, self.initial):
            self._print()

    def _print(self):
        self._last, self._printed = time.monotonic(), self.n
        line = tqdm.format_meter(
            self.n,
            self.total,
            self._last - self._begun,
            unit=self.unit,
            initial=self.initial,
            postfix=self._postfix,
            bar_format=FORMAT,
        )
        print(line, file=sys.stderr, flush=True)
