"""CSV files with a header that are read as they were written, row by row."""

import csv
import io

from jaxdiff import files
from jaxdiff.errors import UserError


def add_row(path, row):
    """Adds {column: value} to a CSV file, which is written whole; in one process."""
    text = io.StringIO(files.read_text(path) if files.exists(path) else "", newline="")
    is_new = not text.seek(0, io.SEEK_END)
    writer = csv.DictWriter(text, row, lineterminator="\n")
    if is_new:
        writer.writeheader()
    writer.writerow(row)
    files.write_text(path, text.getvalue())


def read_rows(path, columns):
    """Rows of a CSV file with a header, as dicts; none where there is no file.

    Args:
      path: of the file.
      columns: {name: function of a text, which raises ValueError for a wrong one}, all of them and
        in order.

    Raises:
      UserError: for anything else in the file, by the number of its line.
    """
    if not files.exists(path):
        return []
    lines = csv.reader(io.StringIO(files.read_text(path), newline=""), strict=True)
    rows = []
    try:
        if next(lines, list(columns)) != list(columns):
            raise ValueError
        for cells in lines:
            pairs = zip(columns.items(), cells, strict=True)
            rows.append({name: read(cell) for (name, read), cell in pairs})
    except (ValueError, csv.Error):
        raise UserError(
            f"Line {lines.line_num} of {path} is not a row of this table: restore the file from "
            "a copy, or choose another place."
        ) from None
    return rows
