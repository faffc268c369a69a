"""Stopping a long command without losing what it is at."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether somebody asked the run to stop."""

    asked = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM finish what is at hand and are told; a second Ctrl-C is as it always is."""
    stop = Stop()
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def ask(*_: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for name in before:
        signal.signal(name, ask)
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
