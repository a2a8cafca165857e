"""Answers Ctrl-C, also where Python or the compiler would lose it or delay it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

PATIENCE = 1.0
"""The seconds without an answer to Ctrl-C before the user is told why."""


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within, an interrupt ends the command; if it has to wait, a message says so.

    Python drops exceptions in destructors and in the garbage collector's callbacks, and JAX has
    such a callback: an interrupt there is sent again. While the compiler works, Python can't act on
    an interrupt: a thread prints that it was heard. Only the main thread gets interrupts; in other
    threads, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _sent_again(), _answered():
        yield


@contextlib.contextmanager
def _sent_again() -> Iterator[None]:
    before = sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(event.exc_type, KeyboardInterrupt):
            before(event)
            return
        # Sent later: an exception raised here would be dropped as well.
        main = threading.main_thread().ident
        again = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Within, every signal at once becomes a byte in a pipe, whatever Python is doing."""
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    over = threading.Event()

    def answer() -> None:
        while signals := os.read(receiver, 1):
            if signals[0] == signal.SIGINT and not over.wait(PATIENCE):
                text = "kltrust: interrupted; it ends after what is being compiled or computed now"
                print(text, file=sys.stderr, flush=True)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(sender)  # ends the thread
        thread.join()
        os.close(receiver)
