"""The byte alphabet of GPT-2: each of the 256 bytes as one printable character.

Source: `bytes_to_unicode` of GPT-2's encoder.py (Radford et al. 2019).
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
"""The letter of each byte, in the order of their ids: visible Latin-1 as itself, the rest from U+0100."""

BYTES = {letter: byte for byte, letter in LETTERS.items()}
