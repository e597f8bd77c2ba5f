"""Whole numbers in texts that a user wrote."""


def whole(text, most=2**31 - 1):
    """The whole number that a text of the characters 0 to 9 stands for.

    Args:
      text: to be read; `str(text)` is.
      most: the largest number that is read.

    Returns:
      An int; None for another text, or a larger number.
    """
    text = str(text)
    if not (text.isascii() and text.isdecimal()):  # isdecimal takes numerals of all scripts
        return None
    text = text.lstrip("0") or "0"
    # int refuses very long texts.
    return int(text) if len(text) <= len(str(most)) and int(text) <= most else None
