from __future__ import annotations

from microgpt.terminal import printable


def test_control_characters_do_not_reach_a_terminal() -> None:
    hostile = "a\x1b[2Jb\x9b31mc\x07\x7f\x00\r\u009dd\n\te"
    assert printable(hostile) == "a[2Jb31mcd\n\te"
