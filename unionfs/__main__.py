"""``python -m unionfs``: the same as the program ``unionfs``."""

from unionfs.cli.main import run_main

run_main()
