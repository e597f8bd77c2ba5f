"""Numbers that users write."""


def whole(text, most=2**31 - 1):
    """The whole number that a text writes in digits 0 to 9; None for another text, or above `most`.

    What str.isdigit() takes for digits, such as a superscript, int() need not read; and it refuses
    numbers of thousands of digits.
    """
    text = str(text)
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(most)) or int(digits) > most:
        return None
    return int(digits)
