"""How much memory a call takes at its peak."""

from collections.abc import Callable
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")

known = _CLEAR.exists()  # read from /proc, which not every system has


def growth(call: Callable[[], object]) -> float:
    """How far a call raises the peak of resident memory above what the process holds, MiB.

    getrusage would not do: a process that a larger one started inherits that one's peak.
    """
    _CLEAR.write_text("5")  # the peak starts here
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return float(status.split(f"{field}:")[1].split()[0]) / 1024
