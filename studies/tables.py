"""Tables of the documentation, made from result files.

    python -m studies.tables            names the pages whose tables differ from the results
    python -m studies.tables --write    writes the tables into the pages

In a page the table of studies/results/NAME.json is between the lines `<!-- table: NAME -->` and
`<!-- end of table -->`. Such a file is what a study's command writes as OUT/table.json:

    {"columns": [["method", ""], ["label agreement", ".1%"]], "rows": [["CFG, w 2", 0.993]]}

A cell is text, in which {NAME:ROW:COLUMN:FORMAT} is a number of another result file (or the mean of
its numbers); a number; a list of numbers, one for each training, which is shown as mean (each);
{"range": [mean, lowest, highest]}, shown as mean (lowest to highest); or null, for nothing.
"""

import pathlib
import re

from jaxdiff import cli, files
from jaxdiff.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = "studies/results"
REFERENCE = re.compile(r"\{(\w+):(\d+):(\d+)(?::([^}]*))?\}")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def save(path, columns, rows):
    """Writes a result file.

    Args:
      path: of the file.
      columns: (heading, format of its numbers) of each column.
      rows: lists of cells.
    """
    files.write_json(path, {"columns": [list(c) for c in columns], "rows": [list(r) for r in rows]})


def markdown(columns, rows):
    """A table as lines of markdown."""
    headings, formats = zip(*columns, strict=True)
    lines = [headings, ["---"] * len(headings)]
    lines += [
        [_cell(value, form) for value, form in zip(row, formats, strict=True)] for row in rows
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def result_of(name):
    """The result file of a table: {"columns": ..., "rows": ...}."""
    path = files.parse_path(str(ROOT / RESULTS / f"{name}.json"), "The table")
    return files.read_json(path, ("columns", "rows"))


def _referred(match):
    """The number of another table that a text names."""
    name, row, column, form = match.groups()
    value = result_of(name)["rows"][int(row)][int(column)]
    if isinstance(value, dict):
        value = value["range"][0]
    return f"{sum(value) / len(value) if isinstance(value, list) else value:{form or ''}}"


def _cell(value, form):
    if value is None or isinstance(value, str):
        return REFERENCE.sub(_referred, value or "")
    if isinstance(value, dict):
        mean, low, high = (f"{each:{form}}" for each in value["range"])
        return mean if low == high else f"{mean} ({low} to {high})"
    if isinstance(value, list):
        each = [f"{v:{form}}" for v in value]
        mean = sum(value) / len(value)
        return each[0] if len(each) == 1 else f"{mean:{form}} ({', '.join(each)})"
    return f"{value:{form}}"


def written(text):
    """The text of a page with its tables as the result files have them."""

    def table(match):
        result = result_of(match[2])
        return f"{match[1]}{markdown(result['columns'], result['rows'])}{match[4]}"

    return BLOCK.sub(table, text)


def pages():
    """Paths of the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _job(args):
    for page in pages():
        path = files.parse_path(str(page), "The page")
        old = files.read_text(path)
        if (new := written(old)) == old:
            continue
        if args.write:
            files.write_text(path, new)
            print(f"{page.relative_to(ROOT)}: written")
        else:
            raise UserError(
                f"{page.relative_to(ROOT)} has a table that differs from its results: run "
                "`python -m studies.tables --write`."
            )


def main():
    """The command."""
    parser = cli.Parser(__doc__)
    cli.add_flag(parser, "write", bool, False, "Whether the tables are written into the pages")
    cli.run(_job, parser)


if __name__ == "__main__":
    main()
