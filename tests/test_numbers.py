import pytest

from jaxdiff.numbers import whole


def test_whole_numbers_are_read():
    assert [whole(text) for text in ("0", "7", "007", 12, "2147483647")] == [0, 7, 7, 12, 2**31 - 1]
    assert whole("5" + "0" * 30, most=10**31) == 5 * 10**30
    assert whole("0" * 6000 + "1") == 1


@pytest.mark.parametrize(
    "text", ["", " 1", "²", "1²", "٣", "-1", "+1", "1.0", "1e3", "1_0", "2147483648", "9" * 6000]
)
def test_other_texts_are_none(text):
    assert whole(text) is None
