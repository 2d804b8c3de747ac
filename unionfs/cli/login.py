"""Log in to a registry: try a name and a password, and keep them where docker keeps them.

That is $DOCKER_CONFIG/config.json (~/.docker/config.json), or the credential helper it names, so
what docker already knows is known here, and the reverse; podman's auth.json is read too, and
$REGISTRY_AUTH_FILE names another file. Without REGISTRY it is docker.io.
"""

import argparse
import getpass
import sys

from unionfs.cli.exitcodes import Exit
from unionfs.cli.render import as_json
from unionfs.errors import ConfigError

__all__ = ["configure", "run"]

EPILOG = """examples:
  unionfs login registry.example
  unionfs login -u me --password-stdin registry.example < secret
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EPILOG
    parser.add_argument("-u", "--username", help="asked for on the terminal if it is not given")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("-p", "--password", help="other users of this machine can see it; better:")
    secret.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
    secret.add_argument("--get-login", action="store_true", help="print the name that is logged in, and do nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("registry", nargs="?", metavar="REGISTRY")


def run(args: argparse.Namespace) -> Exit:
    import trio

    from unionfs.cli.transfer import Watch
    from unionfs.oci.registry import config
    from unionfs.oci.registry.credentials import Credential, DockerConfig
    from unionfs.oci.registry.login import log_in, registry_named

    registry = registry_named(args.registry)
    docker = DockerConfig.load()
    if args.get_login:
        return _get_login(registry, docker.get(registry))
    username = args.username or _asked("Username: ", "-u NAME")
    credential = Credential(username, _password(args))
    if not credential.password:
        raise ConfigError("the password is empty")
    with Watch(verbose=False, bars=False) as watch:
        kept = trio.run(log_in, registry, credential, config.load(), docker, watch)
    if args.json:
        print(as_json({"registry": registry, "username": username, "stored": kept}), end="")
    else:
        print("Login Succeeded")
    return Exit.OK


def _get_login(registry: str, credential: object) -> Exit:
    name = getattr(credential, "username", "")
    if credential is None:
        print(f"unionfs: error: not logged in to {registry}; try: unionfs login {registry}", file=sys.stderr)
        return Exit.NOT_FOUND
    print(name or "<token>")
    return Exit.OK


def _password(args: argparse.Namespace) -> str:
    if args.password_stdin:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if args.password is not None:
        print("unionfs: warning: a password among the arguments can be seen by others; try: --password-stdin",
              file=sys.stderr)  # fmt: skip
        return str(args.password)
    return _asked("Password: ", "--password-stdin", secret=True)


def _asked(prompt: str, instead: str, *, secret: bool = False) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"no terminal to ask on; try: {instead}")
    if secret:
        return getpass.getpass(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input().strip()
