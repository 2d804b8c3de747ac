"""From a reference and a configuration to the hosts that are asked: rules, as tables."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.errors import ConfigError
from unionfs.oci.reference import Reference
from unionfs.oci.registry import config
from unionfs.oci.registry.mirrors import Endpoint, Login, Right, Scheme, is_loopback, rewritten

MIRRORS = """
[registry."docker.io"]

[[registry."docker.io".mirror]]
url = "https://first.example/hub/"
fallback = true
rewrite = { library = "official" }

[[registry."docker.io".mirror]]
url = "http://second.example:8080"
fallback = false
rights = ["pull"]
namespace = true

[registry."corp.example"]
plain_http = true
"""


def asked(name: str, toml: str = MIRRORS) -> list[str]:
    return [str(attempt) for attempt in config.parse(toml).attempts(Reference.parse(name))]


def test_mirrors_come_in_the_order_they_are_written_and_the_registry_last() -> None:
    assert asked("debian") == [
        "https://first.example/hub/official/debian",
        "http://second.example:8080/library/debian",
        "https://registry-1.docker.io/library/debian",
    ]


def test_a_registry_without_an_entry_is_asked_itself_over_tls() -> None:
    assert asked("quay.io/a/b") == ["https://quay.io/a/b"]
    assert asked("quay.io/a/b", "") == ["https://quay.io/a/b"]


def test_plain_http_is_spoken_where_it_is_written() -> None:
    assert asked("corp.example/app") == ["http://corp.example/app"]


def test_an_entry_may_use_another_name_of_the_registry() -> None:
    toml = MIRRORS.replace('"docker.io"', '"index.docker.io"')
    assert asked("debian", toml) == asked("debian")


def test_rights_fallback_and_namespace_reach_the_attempts() -> None:
    first, second, origin = config.parse(MIRRORS).attempts(Reference.parse("debian"))
    assert (first.fallback, second.fallback) == (True, False)
    assert (first.rights, second.rights) == (frozenset(Right), frozenset({Right.PULL}))
    assert (first.namespace, second.namespace, origin.namespace) == (None, "docker.io", None)


def test_what_is_pushed_goes_to_the_registry_itself() -> None:
    origin = config.parse(MIRRORS).origin(Reference.parse("debian"))
    assert origin.endpoint.host == "registry-1.docker.io"


REWRITES = [
    ("library/debian", {}, "library/debian"),
    ("library/debian", {"library": "official"}, "official/debian"),
    ("library/debian", {"library": ""}, "debian"),
    ("library/debian", {"": "hub"}, "hub/library/debian"),
    ("library/debian", {"": "hub", "library": "hub/official"}, "hub/official/debian"),
    ("library/debian", {"library/debian": "x"}, "x"),
    ("libraryx/debian", {"library": "official"}, "libraryx/debian"),
    ("a/b/c/d", {"a": "1", "a/b": "2", "b": "3"}, "2/c/d"),
]


@pytest.mark.parametrize(("repository", "rules", "result"), REWRITES)
def test_the_longest_prefix_in_whole_components_is_rewritten(
    repository: str, rules: dict[str, str], result: str
) -> None:
    assert rewritten(repository, rules) == result


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join))
def test_rules_that_match_nothing_change_nothing(repository: str) -> None:
    assert rewritten(repository, {"x": "y", "a/b/c/a/b": "z"}) == repository


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1", "127.8.9.1:80", "[::1]:5000"])
def test_loopback_is_probed(host: str) -> None:
    assert is_loopback(host)
    assert config.parse("").endpoint(host).scheme is Scheme.PROBE


@pytest.mark.parametrize("host", ["localhost.example", "127.0.0.1.example", "10.0.0.1", "0.0.0.0", "[::2]", "loop"])  # noqa: S104  names only
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert config.parse("").endpoint(host).scheme is Scheme.HTTPS


def mirror(**keys: str) -> str:
    lines = {"url": '"https://m.example"', "fallback": "true"} | keys
    body = "\n".join(f"{key} = {value}" for key, value in lines.items() if value)
    return f'[[registry."docker.io".mirror]]\n{body}\n'


def test_each_host_has_credentials_of_its_own() -> None:
    toml = '[registry."docker.io"]\nusername = "a"\npassword = "1"\n' + mirror(username='"b"', password='"2"')
    first, origin = config.parse(toml + mirror(anonymous="true")).attempts(Reference.parse("x"))[::2]
    second = config.parse(toml + mirror(anonymous="true")).attempts(Reference.parse("x"))[1]
    logins = [attempt.endpoint.login for attempt in (first, second, origin)]
    assert [login and login.username for login in logins] == ["b", "", "a"]


def test_a_mirror_without_credentials_is_asked_with_dockers_for_its_host() -> None:
    assert config.parse(mirror()).attempts(Reference.parse("x"))[0].endpoint.login is None


def test_passwords_are_not_shown() -> None:
    toml = mirror(username='"b"', password='"hush"')
    assert "hush" not in repr(config.parse(toml))


MALFORMED = {
    "not TOML": ("[registry", "registries.toml: not TOML"),
    "misspelt": (mirror(fallback="", fallbak="true"), "mirror.*'fallbak'; write fallback"),
    "no fallback": (
        mirror(fallback=""),
        r'^registries.toml: registry."docker.io".mirror\[0\]: fallback is missing; write',
    ),
    "fallback as text": (
        mirror(fallback='"yes"'),
        r"mirror\[0\].fallback: a text in place of a switch; write fallback =",
    ),
    "no url": (mirror(url=""), "url is missing; write url = "),
    "rewrite as list": (mirror(rewrite='["a"]'), "rewrite: a list in place of a table; write rewrite = "),
    "user as number": (mirror(username="1"), "username: a number in place of a text; write it as a text"),
    "namespace as text": (mirror(namespace='"x"'), "namespace: a text in place of a switch; write true or false"),
    "one mirror in single brackets": (
        mirror().replace("[[", "[").replace("]]", "]"),
        "mirror: a table in place of a list; write .*in double brackets",
    ),
    "a registry that is a number": ('registry."docker.io" = 5', r'registry."docker.io": a number in place of a table'),
    "misspelt in a registry": ('[registry."x.y"]\nplain_htp = true', "unknown key 'plain_htp'; write plain_http"),
    "unknown in a registry": ('[registry."x.y"]\nq = true', "unknown key 'q'; known are ca, .*plain_http, mirror"),
    "twice": ('[registry."x.y"]\n[registry."x.y"]', r"not TOML: .*line 2"),
    "under two names": ('[registry."docker.io"]\n[registry."index.docker.io"]', "docker.io has a table already"),
    "url without scheme": (mirror(url='"m.example"'), "https://HOST"),
    "url with credentials": (mirror(url='"https://me:pw@m.example"'), "https://HOST"),
    "url with query": (mirror(url='"https://m.example/?x=1"'), "no '\\?'"),
    "file url": (mirror(url='"file:///etc"'), "https://HOST"),
    "unknown right": (mirror(rights='["push"]'), r"rights\[0\]: invalid enum value 'push'; write rights = "),
    "no rights": (mirror(rights="[]"), "never asked"),
    "user alone": (mirror(username='"b"'), "go together"),
    "password alone": (mirror(password='"b"'), "go together"),
    "two passwords": (mirror(username='"b"', password='"x"', password_file='"/x"'), "one of them"),
    "anonymous with password": (mirror(username='"b"', password='"x"', anonymous="true"), "anonymous"),
    "key without certificate": (mirror(client_key='"/x"'), "go together"),
    "registry with a path": ('[registry."docker.io/library"]', "HOST or HOST:PORT"),
    "registry as URL": ('[registry."https://docker.io"]', "HOST or HOST:PORT"),
    "unknown table": ("[registries]", "unknown key 'registries'; write registry"),
}


@pytest.mark.parametrize(("toml", "named"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused_with_the_key_that_is_wrong(toml: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as raised:
        config.parse(toml)
    assert str(raised.value).startswith("registries.toml: ")
    assert "\n" not in str(raised.value)
    assert "; " in str(raised.value), "the cure"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_users_file_is_read_and_a_named_one_instead_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load().tables == {}
    write(tmp_path / "home/config/unionfs/registries.toml", '[registry."corp.example"]\nplain_http = true\n')
    assert config.load().endpoint("corp.example") == Endpoint(host="corp.example", scheme=Scheme.HTTP)
    monkeypatch.setenv("UNIONFS_REGISTRIES", str(write(tmp_path / "other.toml", "")))
    assert config.load().tables == {}


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIONFS_REGISTRIES", str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        config.load()


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIONFS_REGISTRIES", str(write(tmp_path / "bad.toml", "x = 1")))
    with pytest.raises(ConfigError, match=r"bad\.toml: unknown key 'x'; known are registry"):
        config.load()
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.toml: not UTF-8 at byte 0; save it as UTF-8"):
        config.load()


def test_the_example_in_the_documentation_is_read() -> None:
    text = (config.__doc__ or "").split("\n\n", 1)[1].split("\n\n``$UNIONFS")[0]
    (attempt, origin) = config.parse(text).attempts(Reference.parse("debian"))
    assert str(attempt) == "https://mirror.example/hub/official/debian"
    assert attempt.endpoint.login == Login(username="me", password_file=Path("/etc/unionfs/mirror.secret"))
    assert origin.endpoint.ca == Path("/etc/ssl/our-ca.pem")
