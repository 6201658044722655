"""The page: well formed, complete in itself, escaped, the same for the same input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from report_samples import Page, attacked, audited, compared, full_measurements, measured

from erasediff.auditing.result import LEVELS
from erasediff.errors import BadInput
from erasediff.report.page import render, write
from erasediff.report.record import deletion_record, render_record

NASTY = "<script>alert(1)</script>\"'&{{ 777 * 7 }}"


def test_well_formed_and_self_contained(result, pictures):
    html = render(result, pictures, run={"method": {"name": "erasediff"}})
    page = Page(html)
    assert html.startswith("<!doctype html>") and page.of("html")[0]["lang"] == "en"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    referred = [
        w for _, a in page.tags for k in ("aria-labelledby", "aria-describedby") for w in (a.get(k) or "").split()
    ]
    referred += [a["href"][1:] for a in page.of("a") if a["href"].startswith("#")]
    assert set(referred) <= set(ids)
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "action"):
            if re.match(r"(https?:)?//", attributes.get(name) or ""):
                assert tag == "a" and name == "href"
    assert "url(" not in html and "@import" not in html


def test_every_picture_and_figure_says_what_it_shows(result, pictures):
    page = Page(render(result, pictures))
    images = page.of("img")
    assert len(images) == 12 and all(len(i["alt"]) > 20 and i["src"].startswith("data:image/png") for i in images)
    drawn = [a for _, a in page.tags if a.get("role") == "img"]
    assert len(drawn) == 4 and all(len(a["aria-label"]) > 20 for a in drawn)
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))


def test_every_figure_of_an_attacked_model_says_what_it_shows(pictures):
    page = Page(render(attacked(), pictures))
    labels = [a["aria-label"] or "" for _, a in page.tags if a.get("role") == "img"]
    assert len(labels) == 6 and all(len(label) > 20 for label in labels)
    (forest,) = [label for label in labels if label.startswith("Differences")]
    assert "Class embedding: +0.610 [0.500, 0.700], +4.1 margins, beyond the margin" in forest


def test_same_input_same_bytes(result, pictures):
    assert render(result, pictures) == render(result, pictures)


@pytest.mark.parametrize("level", LEVELS)
def test_verdict_its_reasons_and_gaps_are_on_the_page(level, pictures):
    found = audited(*full_measurements(), level=level, exposed_by=["relearning from 1 image"])
    text = Page(render(found, pictures)).text
    assert "class 7" in text and "too little was tried" in text
    assert "Relearning from 1 image" in text and "membership inference, inversion" in text
    assert "1.2\u00a0%" in text and "97.6\u00a0%" in text


def test_foreign_text_is_escaped_everywhere(pictures):
    curve = {"k": NASTY, "steps": [0, 1], "forget_rate": [0, 1]}
    odd = [
        measured(NASTY, NASTY, group=NASTY),
        measured("retain_accuracy", detail={"per_class": {NASTY: 0.5}}),
        measured("retain_accuracy_worst", detail={"class": NASTY}),
        measured("parameter_change", detail={"layers": {NASTY: 0.5}}),
        measured("relearn_k1", detail=curve),
    ]
    untested = [{"what": NASTY, "why": NASTY}]
    found = audited(*odd, target=NASTY, because=[NASTY], exposed_by=[NASTY], not_tested=untested)
    hostile = dict.fromkeys(("name", "attack", "role", "outcome"), NASTY)
    suite = {"name": NASTY, "attacks": [{"name": NASTY, NASTY: NASTY}, {"name": "relearning", "steps": NASTY}]}
    setting = {NASTY: NASTY, "models": {"erased": NASTY}, "classifier": NASTY, "suite": suite}
    found = dataclasses.replace(found, setting={**setting, "comparisons": [{**compared(), **hostile}]})
    drawn = {NASTY: {NASTY: pictures["erased"]["forget"]}}
    html = render(found, drawn, captions={NASTY: NASTY}, run={"target": NASTY, "method": {"name": NASTY}})
    page = Page(html)
    assert not page.of("script") and "<script" not in html
    assert page.text.count("<script>alert(1)</script>") >= 15
    assert "5439" not in page.text


def test_an_audit_of_the_erased_model_alone(pictures):
    alone = [m for m in full_measurements() if m.subject == "erased"]
    page = Page(render(audited(*alone), {"erased": pictures["erased"]}))
    assert "retrained" not in [a.get("class") for a in page.of("td")]
    assert len(page.of("img")) == 3


def test_nothing_measured_and_nothing_drawn():
    page = Page(render(audited(), {}))
    assert not page.of("img") and not page.of("table") and "No verdict" in page.text
    assert not Page(render(audited(), {"erased": {"forget": np.zeros((0, 8, 8, 1), np.uint8)}})).of("img")


def test_numbers_that_are_none():
    nan = float("nan")
    found = audited(
        measured("forget_rate", value=nan, low=None, high=None),
        measured("retain_accuracy", value=nan, low=nan, high=nan, detail={"per_class": {"0": nan, "1": None}}),
        measured("relearn_k1", value=nan, detail={"k": 1, "steps": [0, 5], "forget_rate": [nan, None]}),
        measured("relearn_k5", value=0.1, detail={}),
        measured("parameter_change", value=float("inf"), detail={"layers": {"a": nan}}),
        measured("zebra_count", value=-2e-7, low=None, high=1.0, group=""),
    )
    odd = [dict.fromkeys(("difference", "low", "erased"), nan), {"margin": 0}, {"margin": None, "difference": "x"}]
    found.setting["comparisons"] = [*({**compared(), **fields} for fields in odd), {}, "no comparison"]
    page = Page(render(found, {}))
    assert "NaN" in page.text and "∞" in page.text and "Zebra count" in page.text
    drawn = [a[key] for _, a in page.tags for key in ("style", "x", "x1", "x2", "points", "d") if a.get(key)]
    assert not any(re.search(r"nan|inf", where or "") for where in drawn)


def test_write_replaces_the_page_whole(tmp_path: Path):
    path = tmp_path / "report.html"
    write(path, "one")
    write(str(path), "two é")
    assert path.read_text(encoding="utf-8") == "two é" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(BadInput, match="cannot write"):
        write(tmp_path / "none" / "report.html", "three")


CHROMIUM = shutil.which("chromium")
# a frame is as wide as asked, where a window of headless chromium has a least width; errors are read from inside
FRAME = """<!doctype html><body style="margin:0"><iframe id="f" style="width:{width}px;height:800px;border:0"></iframe>
<pre id="out">nothing</pre><script>
const frame = document.getElementById('f'), errors = [];
frame.onload = () => {{
  const root = frame.contentDocument.documentElement;
  document.getElementById('out').textContent =
    'width ' + root.scrollWidth + ' of ' + frame.contentWindow.innerWidth + ' height ' + root.scrollHeight + ' end';
}};
frame.srcdoc = {page};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
@pytest.mark.parametrize("width", [360, 420, 1400])
def test_a_browser_shows_it_without_sideways_scrolling(width: int, result, pictures, tmp_path: Path):
    long = audited(*full_measurements(), target="concept:" + "Donaudampfschifffahrt" * 8)
    large = {s: {"forget": np.zeros((10, 64, 64, 3), np.uint8)} for s in pictures}
    record = deletion_record(attacked(), {}, request="Donaudampfschifffahrt" * 8, date="2026-01-31")
    shown = (
        render(result, pictures, run={"target": ["class:7"]}),
        render(attacked(), pictures),
        render(long, large),
        render_record(record),
    )
    for i, html in enumerate(shown):
        frame = tmp_path / f"frame{i}.html"
        frame.write_text(FRAME.format(width=width, page=json.dumps(html).replace("</", "<\\/")))
        done = browse("--dump-dom", frame, tmp_path / f"profile{i}")
        sizes = re.search(r"width (\d+) of (\d+) height (\d+) end", done.stdout.split('id="out"')[1])
        assert sizes is not None, done.stdout[-500:]
        assert int(sizes[2]) == width and int(sizes[1]) <= width and int(sizes[3]) > 900
        assert "CONSOLE" not in done.stderr


def browse(what: str, page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --enable-logging=stderr"
    offline = "--disable-background-networking --disable-component-update --hide-scrollbars --window-size=1600,1200"
    command = [str(CHROMIUM), *quiet.split(), *offline.split(), f"--user-data-dir={profile}", what, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_prints_it(pictures, tmp_path: Path):
    write(tmp_path / "report.html", render(attacked(), pictures))
    done = browse(f"--print-to-pdf={tmp_path / 'report.pdf'}", tmp_path / "report.html", tmp_path / "profile")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF") and "CONSOLE" not in done.stderr
