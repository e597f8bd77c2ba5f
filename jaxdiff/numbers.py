"""Whole numbers in text, wherever a user wrote them."""


def whole(text, most=2**63 - 1):
    """The whole number that a text of the characters 0 to 9 stands for.

    Args:
      text: to be read; `str(text)` is.
      most: the largest number that is read.

    Returns:
      An int; None for another text, or a larger number.
    """
    text = str(text)
    # str.isdecimal alone takes the numerals of other scripts, and int refuses very long texts.
    is_number = text.isascii() and text.isdecimal() and len(text.lstrip("0")) <= len(str(most))
    return int(text) if is_number and int(text) <= most else None
