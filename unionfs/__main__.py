"""``python -m unionfs``: the same as the program ``unionfs``."""

from unionfs.cli.programs import unionfs

unionfs()
