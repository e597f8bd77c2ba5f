"""What the pages say: tables equal their result files, and snippets are what they seem."""

import re
import textwrap

import pytest

from jaxdiff import files
from jaxdiff.config import RunConfig
from jaxdiff.errors import UserError
from jaxdiff.evaluation import weights
from studies import tables
from tests.conftest import ROOT


@pytest.mark.parametrize("page", tables.pages(), ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(page):
    text = page.read_text()
    assert tables.written(text) == text, "run python -m studies.tables --write"


def test_every_result_file_is_shown():
    pages = "".join(page.read_text() for page in tables.pages())
    for path in (ROOT / tables.RESULTS).glob("*.json"):
        assert f"<!-- table: {path.stem} -->" in pages


def test_the_page_on_evaluation_has_every_file_of_weights():
    text = (ROOT / "docs/evaluation.md").read_text()
    for name, file in weights.FILES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` | http"))
        assert file.address in row
        assert file.size is None or f"| {file.size:,} |" in row
        assert (file.sha256 or "none is published") in row
        assert file.licence in row


def test_cells_are_numbers_lists_ranges_or_text():
    columns = [["a", ""], ["b", ".1f"], ["c", ".0%"], ["d", "d"]]
    text = tables.markdown(columns, [["x", [1, 2], {"range": [0.6, 0.5, 0.7]}, None]])
    assert text.splitlines()[2] == "| x | 1.5 (1.0, 2.0) | 60% (50% to 70%) |  |"


def test_a_table_without_results_is_refused():
    with pytest.raises(UserError, match="none_such"):
        tables.written("<!-- table: none_such -->\n<!-- end of table -->\n")


def test_the_config_for_data_of_one_s_own_is_a_run_s():
    text = files.read_text(files.parse_path(ROOT / "docs/getting_started.md", "page"))
    code = re.search(r"(    from configs import own_data\n.*?)\n\S", text, re.DOTALL)[1]
    namespace = {}
    exec(textwrap.dedent(code), namespace)
    config = namespace["get_config"]()
    assert isinstance(config, RunConfig)
    assert config.data.shape == (64, 64, 3)
    assert config.diffusion.condition_dropout > 0
    assert config.training.power_ema
