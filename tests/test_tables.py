import numpy as np
import pytest
from etils import epath

from jaxdiff import tables
from jaxdiff.errors import UserError


def test_rows_replace_those_of_later_steps_and_columns_are_added(tmp_path):
    path = epath.Path(tmp_path) / "metrics.csv"
    for step in (10, 20, 30):
        tables.put_row(path, {"step": step, "fd": step / 4, "name": "a, b"})
    tables.put_row(path, {"step": 20, "recall": 0.5, "name": 'c "d"'})
    assert path.read_text() == 'step,fd,name,recall\n10,2.5,"a, b",\n20,,"c ""d""",0.5\n'
    tables.put_row(path, {"step": 10, "fd": 1.0})
    assert path.read_text() == "step,fd\n10,1.0\n"


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "step,fd\nx,2\n", "step,fd\n1\n", "step\n1,2\n"])
def test_what_is_no_such_table_is_refused_and_left_as_it_is(tmp_path, text):
    path = epath.Path(tmp_path) / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="Line 2 of .*metrics.csv"):
        tables.put_row(path, {"step": 2, "fd": 1.0})
    assert path.read_text() == text


def test_a_number_is_rounded_once_to_float32(tmp_path):
    path, number = epath.Path(tmp_path) / "metrics.csv", 0.4146558493556708
    assert np.float32(f"{number:.9g}") != np.float32(number)  # rounded twice
    tables.append_row(path, ("step", "rate"), {"step": 1, "rate": number})
    step, rate = path.read_text().strip().split(",")
    assert (step, np.float32(rate)) == ("1", np.float32(number))
