"""The sets of features under which a case is worth trying."""

from typing import Final

from unionfs.testing.stack import Features

__all__ = ["ALL", "BOTH_WAYS", "INDEX", "META", "ON", "USER"]

ON: Final = (Features(),)
INDEX: Final = (Features(index=True),)
BOTH_WAYS: Final = (Features(), Features(index=True))
META: Final = (Features(metacopy=True), Features(metacopy=True, index=True))
USER: Final = (Features(userxattr=True),)
ALL: Final = (*BOTH_WAYS, *META)
