"""What the README says is so: its tour is run, its tables are compared, its links lead somewhere."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unionfs.cli.exitcodes import Exit
from unionfs.cli.main import COMMANDS
from unionfs.core.mountoptions import FLAG_GROUPS
from unionfs.core.options import OPTIONS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FLAGS = {word for group in FLAG_GROUPS for word in group}


def option_rows() -> list[str]:
    """Return the rows of the option table: each option that does something, with its own line of help."""
    return [
        f"| `{option.name}` | {option.help} |"
        for option in OPTIONS.values()
        if option.name not in FLAGS and not option.help.startswith("accepted")
    ]


def quiet_options() -> str:
    """Return the options that are accepted without an effect, as the README names them."""
    names = [option.name for option in OPTIONS.values() if option.help.startswith("accepted")]
    return textwrap.fill(", ".join(f"`{name}`" for name in names), 118, break_long_words=False, break_on_hyphens=False)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def tour() -> list[tuple[str, str]]:
    """Return each command of the two tours with what it prints."""
    blocks = [section(title).split("```console\n")[1].split("```")[0] for title in ("A tour", "Images")]
    steps = [step.partition("\n") for step in re.split(r"^\$ ", "".join(blocks), flags=re.MULTILINE)[1:]]
    return [(command, output) for command, _, output in steps]


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.overlayfs
def test_the_tour_prints_what_the_readme_shows(project: Path, tmp_path: Path) -> None:
    program = f'unionfs() {{ PYTHONPATH={project} {sys.executable} -m unionfs "$@"; }}; cd {tmp_path}\n'
    script = program + "".join(f"{command}; echo END\n" for command, _ in tour())
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, "UNIONFS_ROOT": str(tmp_path / "store")},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        subprocess.run(["umount", "--quiet", tmp_path / "merged"], check=False)
    printed = done.stdout.split("END\n")[:-1]
    assert [(command, output) for (command, _), output in zip(tour(), printed, strict=True)] == tour()


def test_the_option_table_is_the_one_of_the_program() -> None:
    table = section("Options")
    assert [line for line in table.splitlines() if line.startswith("| `")] == option_rows()
    assert quiet_options() in table


def test_every_command_is_listed() -> None:
    named = set(re.findall(r"`(?:unionfs )?([a-z]+)", section("Commands")))
    assert set(COMMANDS) - named == set()


def test_every_exit_status_is_listed() -> None:
    listed = re.findall(r"^\| (\d+) \|", section("Exit status"), re.MULTILINE)
    assert [int(status) for status in listed] == [int(status) for status in Exit]


def test_links_lead_to_files(project: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (project / link).exists()] == []


def test_make_has_every_command_the_readme_names(project: Path) -> None:
    makefile = (project / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"\bmake ([a-z-]+)", re.sub(r"[a-z]+ make ", "", README))
    assert {name for name in named if not re.search(rf"^{name}:.*## ", makefile, re.MULTILINE)} == set()
