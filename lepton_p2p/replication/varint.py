"""Whole numbers in as few bytes as they need (LEB128)."""

from __future__ import annotations

_MAX_BYTES = 10
"""Of one number: 64 bits need ten groups of seven."""


def varint(number: int) -> bytes:
    """``number``, 0 to 2**64 - 1; ``ValueError`` for others."""
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} does not fit into 64 bits")
    out = bytearray()
    while True:
        low, number = number & 0x7F, number >> 7
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def varints(data: bytes, count: int) -> tuple[list[int], bytes]:
    """``count`` numbers from the front of ``data``, and what follows them; ``ValueError`` if they are not there."""
    numbers: list[int] = []
    at = 0
    while len(numbers) < count:
        number = shift = 0
        while True:
            if at >= len(data) or shift >= 7 * _MAX_BYTES:
                raise ValueError("a number ends in the middle, or is too long")
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if number >= 1 << 64:
            raise ValueError(f"{number} does not fit into 64 bits")
        numbers.append(number)
    return numbers, data[at:]
