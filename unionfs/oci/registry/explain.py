"""What is wrong in ``registries.toml``, in words of that file: the key, the cause, and what to write instead.

msgspec says "Object missing required field `fallback` - at `$.mirror[0]`", which is right, and about objects.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

__all__ = ["explained"]

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_WRONG: Final = re.compile(r"Expected `(?P<wanted>.*)`, got `(?P<got>.*)`")
_NUMBERED: Final = re.compile(r"\[\d+\]")

_SWITCH, _TEXT = "write true or false, without quotes", "write it as a text in quotes"
_TYPES: Final = {"bool": "a switch", "object": "a table", "array": "a list", "str": "a text", "int": "a number"}
_CURES: Final = {
    "url": 'write url = "https://HOST[:PORT][/PREFIX]"',
    "fallback": "write fallback = true or fallback = false: may the pull go on when this mirror fails?",
    "rights": 'write rights = ["resolve", "pull"], or one of them',
    "rewrite": 'write rewrite = { "library" = "official" }',
    "mirror": 'write [[registry."HOST".mirror]], in double brackets, for each',
    "registry": 'write [registry."HOST"]',
    **dict.fromkeys(("plain_http", "anonymous", "namespace"), _SWITCH),
}


def explained(said: str, where: str, known: Mapping[str, Sequence[str]]) -> str:
    """Return what msgspec *said* of the table *where*; *known* has the keys of it ("") and of the tables in it."""
    text, _, path = said.partition(" - at `$")
    path = path.rstrip("`")
    place = f"{where}{path}".lstrip(".")
    key = _NUMBERED.sub("", path).rpartition(".")[2]
    if unknown := _UNKNOWN.fullmatch(text):
        keys = known[key]
        near = get_close_matches(unknown[1], keys, 1)
        cure = f"write {near[0]}" if near else f"known are {', '.join(keys)}"
        return f"{f'{place}: ' if place else ''}unknown key {unknown[1]!r}; {cure}"
    if missing := _MISSING.fullmatch(text):
        return f"{place}: {missing[1]} is missing; {_CURES.get(missing[1], _TEXT)}"
    if wrong := _WRONG.fullmatch(text):
        text = f"{_TYPES.get(wrong['got'], wrong['got'])} in place of {_TYPES.get(wrong['wanted'], wrong['wanted'])}"
    return f"{place}: {text[0].lower()}{text[1:]}; {_CURES.get(key, _TEXT)}"
