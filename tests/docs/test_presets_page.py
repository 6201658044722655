"""The page of presets says what the presets are."""

from tests.docs.markdown import ROOT

from erasediff.api.presets import PRESETS, UNVERIFIED


def test_every_preset_has_its_row():
    page = (ROOT / "docs" / "presets.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(PRESETS)
    for name, preset in PRESETS.items():
        papers = [s.split(":", 2)[1][:10] for s in preset.sources]
        for said in (preset.anchor, preset.training["parameters"], *papers):
            assert said in rows[name], (name, said)
    assert ("Unverified" in page) == any(p.verified == UNVERIFIED for p in PRESETS.values())
