"""An OverlayFS-style union filesystem in userspace.

Start reading at ``core/union.py``, which names every call; follow one of them down. Each floor imports only those
below it::

    cli                         commands: print, decide nothing
    fuse | analysis | testing   the kernel's side; answers about layers; what tests are made of
    oci                         images as values
    core                        the union: usable with no mount at all
    linux                       the only door to the kernel
    errors | names              the words that all of them use
"""
