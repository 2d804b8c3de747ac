"""The distribution's packages as layers: found, fetched into a cache, unpacked."""

import os
from pathlib import Path

from unionfs.cli.demo.typist import Typist

__all__ = ["unpack", "with_dependencies"]

MERGED_USR = ("bin", "sbin", "lib", "lib64")
"""Directories that newer distributions have under /usr only, with a symlink at the root."""


def with_dependencies(typed: Typist, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return *packages* and what they depend on to run; base-files runs nothing, so nothing is asked for it."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *packages[1:]]
    lines = typed.quietly(*command).stdout.splitlines()
    return tuple(sorted({packages[0], *(line for line in lines if line[:1].isalnum())}))


def unpack(typed: Typist, layer: str, packages: tuple[str, ...]) -> None:
    """Unpack *packages* into the directory *layer*, downloading those that are not in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unionfs" / "demo"
    cache.mkdir(parents=True, exist_ok=True)
    files = archives(typed, packages)
    if missing := [package for package, file in files.items() if not (cache / file).exists()]:
        typed.note(f"(downloading {len(missing)} packages into {cache})")
        typed.quietly("apt-get", "-o", "APT::Sandbox::User=root", "download", *missing, cwd=cache)
    typed.run("mkdir", layer)
    print(f"$ for package in {' '.join(files)}; do dpkg-deb -x $package*.deb {layer}; done", flush=True)
    for file in files.values():
        typed.quietly("dpkg-deb", "-x", str(cache / file), layer)
    for name in MERGED_USR:
        merged, link = typed.here / layer / "usr" / name, typed.here / layer / name
        if layer == "base" and merged.is_dir() and not os.path.lexists(link):
            link.symlink_to(f"usr/{name}")


def archives(typed: Typist, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the name of each package's file; a fresh machine is told to fetch its package lists first."""
    command = ("apt-get", "download", "--print-uris", *packages)
    listed = typed.quietly(*command, check=False)
    if listed.returncode:
        typed.quietly("apt-get", "update")
        listed = typed.quietly(*command)
    names = sorted(line.split()[1] for line in listed.stdout.splitlines() if line.startswith("'"))
    return {name.split("_")[0]: name for name in names}
