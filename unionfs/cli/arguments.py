"""The parser of a command's arguments: argparse's, whose complaints are one line like every other error."""

import argparse
from typing import NoReturn

from unionfs.cli.render import printable
from unionfs.errors import ConfigError

__all__ = ["Arguments"]


class Arguments(argparse.ArgumentParser):
    """A parser that leaves the synopsis to ``--help``."""

    def error(self, message: str) -> NoReturn:
        """Say what makes no sense."""
        raise ConfigError(f"{printable(message)}; try: {self.prog} --help")
