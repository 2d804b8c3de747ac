"""The programs, from their first line to the end of the process; ``main.py`` says what they do.

Nothing is imported here before the collector of garbage is off: looking for some among what is being imported takes
1 ms of a mount. Who goes on for longer turns it on again.
"""

import gc
import os
import sys

__all__ = ["overlay", "unionfs"]


def unionfs() -> None:
    """Be the program ``unionfs``. Does not return."""
    gc.disable()
    _open_streams()
    from unionfs.cli import main

    _end(main.main())


def overlay() -> None:
    """Be the program ``unionfs-overlay``. Does not return."""
    gc.disable()
    _open_streams()
    from unionfs.cli import main

    _end(main.overlay())


def _open_streams() -> None:
    """Have stdin, stdout and stderr where whoever called has closed one: a file of ours would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the end


def _end(status: int) -> None:
    """End at once: to take apart all that was imported is a seventh of the time of a mount.

    Nothing waits for that here. Files, threads and transactions end with the block that began them.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # whoever reads it is gone
            continue
    os._exit(status)
