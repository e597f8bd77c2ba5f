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


def put_row(path, row):
    """Adds {column: value} to a CSV file, which is written whole; in one process.

    The first column is of whole numbers, by which rows are ordered: those of this number and later
    ones are dropped. Columns that are new are empty in other rows, and those that the row lacks in
    this one.

    Raises:
      UserError: for a file that is no such table, or cannot be written.
    """
    key, rows = next(iter(row)), []
    if files.exists(path):
        lines = csv.DictReader(io.StringIO(files.read_text(path), newline=""), strict=True)
        try:
            for other in lines:
                if None in other or None in other.values():
                    raise ValueError
                rows.append(other)
            rows = [other for other in rows if int(other[key]) < row[key]]
        except (KeyError, ValueError, csv.Error):
            raise _refused(path, lines.line_num) from None
    write_rows(path, [*rows, row])


def write_rows(path, rows):
    """Writes a CSV file of dicts; the columns of all, empty where one has none; in one process."""
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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
        raise _refused(path, lines.line_num) from None
    return rows


def _refused(path, line):
    return UserError(
        f"Line {line} of {path} is not a row of this table: restore the file from a copy, or "
        "choose another place."
    )
