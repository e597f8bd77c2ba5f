"""CSV files with a header that are read as they were written, row by row."""

import csv
import io

import numpy as np

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


def begin(path, to, columns, last):
    """Readies a table that rows are added to, one by one.

    Its first column is of whole numbers, by which rows are ordered: those after `last` are dropped,
    and so is a last line that was cut off while it was written.

    Args:
      path: of the table so far, if there is one.
      to: where it is written; a local path.
      columns: of the rows to come; others that the table has stay.
      last: number of the last row that stays.

    Returns:
      The columns, of all rows.

    Raises:
      UserError: for a file that is no such table, or cannot be written.
    """
    text = files.read_text(path) if files.exists(path) else ""
    lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
    try:
        rows = list(lines)
        if any(None in row or None in row.values() for row in rows):
            raise ValueError
        rows = [row for row in rows if int(row[columns[0]]) <= last]
    except (KeyError, ValueError, csv.Error):
        raise _refused(path, lines.line_num) from None
    columns = list(dict.fromkeys([*(lines.fieldnames or ()), *columns]))
    write_rows(to, rows, columns)
    return columns


def append_row(path, columns, row):
    """Adds {column: number} to the end of a local table that `begin` has made ready."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    # In float32, as TensorBoard has them; nine decimals tell any two apart.
    cells = {n: x if isinstance(x, int) else f"{np.float32(x):.9g}" for n, x in row.items()}
    writer.writerow(cells)
    with files.writing(path), open(path, "ab") as file:
        file.write(text.getvalue().encode("utf-8"))


def write_rows(path, rows, columns=None):
    """Writes a CSV file of dicts, empty where one has no such column; in one process.

    The columns are those of all rows, if they are not given.
    """
    columns = columns or dict.fromkeys(name for row in rows for name in row)
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
