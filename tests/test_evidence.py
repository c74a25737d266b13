"""The pages of evidence are what `make evidence` writes from the records."""

import pytest

from tests.evidence import PAGES
from tests.evidence.markdown import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    path = ROOT / name
    if not path.exists() or path.read_text(encoding="utf-8") != PAGES[name]():
        pytest.fail(f"{name} is stale: make evidence", pytrace=False)


def test_every_record_has_a_page() -> None:
    """A folder of records has a page of its own, or rows on the page of all records."""
    for folder in (ROOT / "outputs/records").iterdir():
        if folder.is_dir():
            rows = (ROOT / "outputs/records/README.md").read_text(encoding="utf-8")
            assert f"]({folder.name}/README.md)" in rows or f"]({folder.name})" in rows
