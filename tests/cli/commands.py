"""What a command of the program printed, run in this process."""

import json
from collections.abc import Callable
from typing import Any


class Told(str):
    """What a command printed, and its status."""

    status: int
    errors: str

    def json(self) -> Any:
        return json.loads(self)


Command = Callable[..., Told]
