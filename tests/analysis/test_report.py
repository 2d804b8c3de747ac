"""The page is whole, safe, and works in a real browser."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.analysis.layers import WHITEOUT, Literal, layer
from unionfs.analysis.report import LayerFacts, render

BOTTOM: Literal = {"bin": {"sh": b"x" * 5000, "link": "sh"}, "etc": {"passwd": b"root", "hosts": b"localhost"}}
TOP: Literal = {"etc": {"hosts": WHITEOUT, "passwd": b"root\nuser"}, "<": {"script><script>alert(1)": b"evil" * 100}}


def page(*stack: Literal) -> str:
    layers = [
        LayerFacts(
            name=f"layer{number}", entries=layer(tree), created="2024", created_by=f"RUN <{number}>", packed_size=number
        )
        for number, tree in enumerate(stack)
    ]
    return render("app <1>", {"packed": "1 KiB"}, layers)


def data_of(text: str) -> dict[str, object]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    result: dict[str, object] = json.loads(found[1])
    return result


def test_the_page_needs_nothing_else_and_trusts_no_name() -> None:
    text = page(BOTTOM, TOP)
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org)", text)
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "@DATA@" not in text


def test_the_page_says_what_du_says() -> None:
    data = data_of(page(BOTTOM, TOP))
    usage = data["usage"]
    assert isinstance(usage, dict)
    assert usage["wasted"] == len(b"rootlocalhost")
    assert [offender[0] for offender in usage["offenders"]] == ["etc/hosts", "etc/passwd"]


def test_an_image_without_files_has_a_page() -> None:
    assert "data-ready" in page() or "dataset.ready" in page()
    assert "no file has any content" in page({})


def test_names_are_shown_as_they_are() -> None:
    """Marks of the template, characters that turn a line around, bytes of no encoding: none does anything."""
    text = page({"@DATA@": b"x" * 5000, "\u202etxt.exe": b"x" * 5000, "\udcff\n": b"x" * 5000})
    assert text.count('"title":"app') == 1
    assert ">@DATA@</text>" in text
    assert ">\\u202etxt.exe</text>" in text
    assert ">\\xff\\n</text>" in text
    assert "\u202e" not in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
class TestInABrowser:
    """Rendered by headless Chromium."""

    def dom(self, tmp_path: Path, text: str, fragment: str = "", width: int = 1200) -> str:
        target = tmp_path / "report.html"
        target.write_text(text, encoding="utf-8")
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--window-size={width},900", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000",
            "--dump-dom", f"file://{target}{fragment}",
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return html.unescape(done.stdout)

    def test_it_is_drawn(self, tmp_path: Path) -> None:
        dom = self.dom(tmp_path, page(BOTTOM, TOP))
        assert 'data-ready="yes"' in dom
        assert "RUN <1>" in dom
        assert '<h1 id="title">app <1></h1>' in dom
        assert dom.count("<rect") >= 2
        assert "efficiency = shown / stored" in dom
        assert "5 entries in this layer" in dom

    def test_the_search_finds_hidden_files_too(self, tmp_path: Path) -> None:
        dom = self.dom(tmp_path, page(BOTTOM, TOP), "#q=PASSWD")
        assert "2 entries in all layers" in dom
        assert "0:/etc/passwd" in dom
        assert "1:/etc/passwd" in dom

    def test_what_is_typed_is_searched_for_and_folders_unfold(self, tmp_path: Path) -> None:
        script = """
            at("search").value = "F99"; at("search").dispatchEvent(new Event("input"));
            document.title = at("count").textContent + "; " + at("tree").children.length + " rows";
            at("search").value = ""; at("search").dispatchEvent(new Event("input"));
            document.querySelector("details").open = true;
            setTimeout(() => document.title += "; " + document.querySelectorAll(".leaf").length + " leaves", 500);
        """
        text = page({"many": {f"f{number}": b"x" * (number % 97) for number in range(10_000)}})
        dom = self.dom(tmp_path, text.replace("</body>", f"<script>{script}</script></body>"))
        assert "<title>111 entries in all layers; 111 rows; 10000 leaves</title>" in dom

    @pytest.mark.parametrize("width", [500, 1400])
    def test_nothing_is_wider_than_the_window(self, tmp_path: Path, width: int) -> None:
        script = "document.title = document.documentElement.scrollWidth <= innerWidth ? 'fits' : 'too wide'"
        text = page({"n" * 250: {"m" * 250: b"x" * 5000}}, BOTTOM, {"etc": {"passwd": WHITEOUT}})
        dom = self.dom(tmp_path, text.replace("</body>", f"<script>{script}</script></body>"), width=width)
        assert "<title>fits</title>" in dom
