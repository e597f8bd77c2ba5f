"""docs/api.md is what the docstrings of the public names say."""

import runpy

from tests.conftest import ROOT


def test_the_page_of_the_api_is_made_from_the_docstrings():
    page = runpy.run_path(str(ROOT / "docs/make_api.py"))["page"]
    assert (ROOT / "docs/api.md").read_text() == page()
