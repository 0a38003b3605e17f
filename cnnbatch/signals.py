"""SIGTERM and SIGHUP end a command as Ctrl-C does, by KeyboardInterrupt: what is done is committed, and leases are let go."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
CTRL_C_EXIT: Final = 1

_received: signal.Signals | None = None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block, the first of these signals raises KeyboardInterrupt in the main thread; later ones are too late.

    One that is ignored when the block begins, as under ``nohup``, stays so.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    _received = None
    try:
        for number in ENDING:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, _interrupt)
        yield
    finally:
        _set(before)


@contextmanager
def kept() -> Iterator[None]:
    """Within the block others may set handlers of their own (`ray.init` does); afterwards they are as they were."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    except SystemExit as ended:  # what Ray's handler raises
        if ended.code != signal.SIGTERM:
            raise
        _interrupt(signal.SIGTERM, None)
        raise
    finally:
        _set(before)


def _set(handlers: "dict[signal.Signals, signal._HANDLER]") -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received
    if _received is None:
        _received = signal.Signals(number)
        raise KeyboardInterrupt


def exit_code() -> int:
    """The exit code of a command after a KeyboardInterrupt: 128 and the signal's number, as a shell reports it."""
    return CTRL_C_EXIT if _received is None else 128 + _received


def ending() -> str:
    """How the command was ended."""
    return "interrupted" if _received is None else f"ended by {_received.name}"
