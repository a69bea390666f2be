"""Regular expressions that strangers wrote, refused where matching them could take for ever.

Python's matcher tries one way after another. The number of ways is exponential where something
repeated repeats something itself, as in ``(a+)+``, or has a choice within, as in ``(a|b)*``; it grows
with a power for every further repetition. Names of modules need neither.
"""

from __future__ import annotations

import re
import warnings

#: repetitions that a pattern may have
_MOST = 4
_REPEAT = re.compile(r"[*+?]|\{\d*,?\d*\}")


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that is matched against the end of a name, whole parts only.

    Raises
    ------
    ValueError
        It is no regular expression, or one whose matching is not bounded.

    >>> bool(compiled("layers.*.q_proj").match("model.layers.0.self_attn.q_proj"))
    True
    >>> compiled("(a+)+")
    Traceback (most recent call last):
    ...
    ValueError: it repeats a group that itself repeats or has alternatives
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what will mean something else one day is refused today
            re.compile(pattern)
            found = re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    _check(pattern)
    return found


def _check(pattern: str) -> None:
    """Walk the pattern once: one flag per open group, set by a repetition or a choice within."""
    groups, closed, repeats, place = [False], False, 0, 0
    while place < len(pattern):
        letter, repeat = pattern[place], _REPEAT.match(pattern, place)
        if repeat and repeat[0] != "{}" and place:
            place = repeat.end()
            if closed and repeat[0] != "?":
                raise ValueError("it repeats a group that itself repeats or has alternatives")
            repeats += repeat[0] != "?"
            groups[-1] = True
            continue
        closed = False
        if letter == "\\":
            if pattern[place + 1].isdigit():
                raise ValueError("it refers back to one of its groups")
            place += 1
        elif letter == "[":
            place = _end_of_class(pattern, place)
        elif letter == "(":
            groups.append(False)
            if pattern.startswith("(?", place):
                if not re.match(r"\(\?(:|P<\w+>)", pattern[place:]):
                    raise ValueError("it looks around, or sets flags")
                place = pattern.index(":" if pattern[place + 2] == ":" else ">", place)
        elif letter == ")":
            closed = groups.pop()
            groups[-1] |= closed
        elif letter == "|":
            groups[-1] = True
        place += 1
    if repeats > _MOST:
        raise ValueError(f"it has {repeats} repetitions, and at most {_MOST} are matched")


def _end_of_class(pattern: str, place: int) -> int:
    """Index of the bracket that closes the class which opens at ``place``."""
    at = place + 1
    at += pattern[at] == "^"
    at += pattern[at] == "]"
    while pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at
