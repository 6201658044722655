"""docs/families.md says of each family what the registry says."""

from tests.docs.markdown import ROOT

from erasediff.families import FAMILIES


def test_the_table_of_families_is_that_of_the_registry():
    page = (ROOT / "docs" / "families.md").read_text().splitlines()
    shown = [line for line in page if line.startswith("| `")]
    computed = [
        f"| `{name}` | {', '.join(f'`{p}`' for p in family.pipelines)} | {', '.join(family.targets)} "
        f"| {', '.join(family.predictions)} | {', '.join(family.exports)} "
        f"| {', '.join(f'`{extra}`' for extra in family.needs) or 'none'} |"
        for name, family in FAMILIES.items()
    ]
    assert shown == computed


def test_families_are_named_where_users_look():
    for page in ("README.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text()
        assert [name for name in FAMILIES if f"`{name}`" not in text] == [], page
