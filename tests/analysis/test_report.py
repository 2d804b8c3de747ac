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
    assert "<svg" in page({})


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
class TestInABrowser:
    """Rendered by headless Chromium."""

    def dom(self, tmp_path: Path, fragment: str = "") -> str:
        target = tmp_path / "report.html"
        target.write_text(page(BOTTOM, TOP), encoding="utf-8")
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000", "--dump-dom", f"file://{target}{fragment}",
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return html.unescape(done.stdout)

    def test_it_is_drawn(self, tmp_path: Path) -> None:
        dom = self.dom(tmp_path)
        assert 'data-ready="yes"' in dom
        assert "RUN <1>" in dom
        assert '<h1 id="title">app <1></h1>' in dom
        assert dom.count("<rect") >= 2
        assert "efficiency = shown / stored" in dom
        assert "5 entries in this layer" in dom

    def test_the_search_finds_hidden_files_too(self, tmp_path: Path) -> None:
        dom = self.dom(tmp_path, "#q=PASSWD")
        assert "2 entries in all layers" in dom
        assert "0:/etc/passwd" in dom
        assert "1:/etc/passwd" in dom
