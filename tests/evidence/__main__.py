"""Write all pages: `make evidence`."""

from tests.evidence import PAGES
from tests.evidence.markdown import ROOT

for name, page in PAGES.items():
    (ROOT / name).write_text(page(), encoding="utf-8")
    print(name)
