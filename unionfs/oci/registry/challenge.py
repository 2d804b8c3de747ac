"""``WWW-Authenticate``: what a server wants to see before it answers.

Pure: header text in, challenges out. Servers write several challenges into one header, several
headers, commas inside quotes, and scheme names in any case; all of that is read here and nowhere
else.

Source: RFC 9110 §11.6.1; the Bearer parameters, docs.docker.com "Token authentication".
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Challenge", "choose", "parse"]

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*')
_SCHEME: Final = re.compile(rf"[\s,]*({_WORD})(?=\s|,|$)")
_TOKEN68: Final = re.compile(r"\s+[A-Za-z0-9._~+/-]+=*\s*(?=,|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme the server accepts, its name and its parameters' names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Read the values of all ``WWW-Authenticate`` headers; what cannot be read is left out.

    >>> parse(['Basic realm="a, b", Bearer realm="https://t/",service=x'])[1].parameters["service"]
    'x'
    """
    return [challenge for header in headers for challenge in _challenges(header)]


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: Bearer before Basic, because a token gives away less."""
    known = {each.scheme: each for each in reversed(list(challenges))}
    bearer = known.get("bearer")
    if bearer and "realm" in bearer.parameters:
        return bearer
    return known.get("basic")


def _challenges(header: str) -> Iterator[Challenge]:
    at = 0
    while scheme := _SCHEME.match(header, at):
        at = scheme.end()
        blob = _TOKEN68.match(header, at)
        if blob:
            at = blob.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(header, at):
            name, quoted, plain = found.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(name.lower(), value)
            at = found.end()
            comma = header[at : at + 1] == ","
            if not comma or not _PARAMETER.match(header, at + 1):
                break
            at += 1
        yield Challenge(scheme[1].lower(), parameters)
