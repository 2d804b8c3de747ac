"""The second half: the same files as an image, to a real registry and back through a mirror of it."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator

from unionfs.cli.demo.packages import unpack
from unionfs.cli.demo.typist import MOUNT, Typist, fingerprint, heading
from unionfs.errors import UnionFSError

__all__ = ["show"]

PATIENCE_S = 20.0
"""How long the registry may take to start."""


def show(typed: Typist) -> None:
    heading("An image of the same base, and two more layers made by working in it")
    typed.run("tar", "-C", "base", "-cf", "base.tar", ".")
    typed.run("unionfs", "import", "-m", "a base", "base.tar", "demo/base")
    add_layer(typed, "demo/base", "demo/tools", "cp -a tools/. merged/")
    add_layer(typed, "demo/tools", "demo/site", "rm merged/usr/bin/yes")
    typed.run("unionfs", "images")
    typed.run("unionfs", "history", "demo/site")
    typed.run("unionfs", "mount", "demo/site", MOUNT)
    typed.inside("hello", "Hello, world!")
    before = fingerprint(typed.here / MOUNT)
    typed.run("unionfs", "umount", MOUNT)

    heading("To a registry, and back through a mirror of it")
    unpack(typed, "registry", ("docker-registry",))
    with registry(typed, "origin") as address:
        name = f"{address}/demo/site"
        typed.run("unionfs", "push", "demo/site", name)
        typed.run("unionfs", "rmi", "--force", "demo/site", "demo/tools", "demo/base")
        typed.run("unionfs", "images")
        with registry(typed, "mirror", proxy={"remoteurl": f"http://{address}"}) as mirror:
            settings = f'[[registry."{address}".mirror]]\nurl = "http://{mirror}"\nfallback = false\n'
            (typed.here / "registries.toml").write_text(settings, encoding="utf-8")
            typed.environment["UNIONFS_REGISTRIES"] = "registries.toml"
            typed.run("cat", "registries.toml")
            asked = typed.run("unionfs", "pull", "--verbose", name)
            if f"http://{mirror}/demo/site: good" not in asked:
                raise UnionFSError("the mirror was not asked")
    typed.run("unionfs", "mount", name, MOUNT)
    typed.inside("hello", "Hello, world!")
    if fingerprint(typed.here / MOUNT) != before:
        raise UnionFSError("what came back is not what went in")
    typed.note(f"What came back is what went in: {len(before)} entries compared.")
    typed.run("unionfs", "umount", MOUNT)


def add_layer(typed: Typist, below: str, name: str, command: str) -> None:
    """Mount the image *below*, run *command* on it, and make *name* of the result."""
    container = name.replace("/", "-")
    typed.run("unionfs", "mount", below, MOUNT, "--rw", container)
    typed.run("sh", "-c", command)
    typed.run("unionfs", "umount", MOUNT)
    typed.run("unionfs", "commit", "-m", command, container, name)


@contextlib.contextmanager
def registry(typed: Typist, name: str, **sections: object) -> Iterator[str]:
    """Serve the distribution's registry on loopback, from its unpacked package; yield its address.

    *sections* are more of its configuration.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    settings = {
        "version": 0.1,
        "http": {"addr": address},
        "storage": {"filesystem": {"rootdirectory": str(typed.here / f"{name}-data")}},
        **sections,
    }
    (typed.here / f"{name}.yml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    command = ["registry/usr/bin/docker-registry", "serve", f"{name}.yml"]
    print(f"$ {' '.join(command)} &    # on {address}", flush=True)
    served = subprocess.Popen(
        command, cwd=typed.here, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, served)
        yield address
    finally:
        served.terminate()
        served.wait()


def wait_for(port: int, served: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while served.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise UnionFSError("docker-registry did not start")
