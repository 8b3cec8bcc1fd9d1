"""The exception for mistakes that the user can correct, and text as messages show it."""

import re
import shlex
from collections.abc import Mapping

_SPECIAL = re.compile(r"([\\()\[\]{}:=,\t])")  # what Hydra requires a backslash before, in the key of a mapping


# Characters that move the cursor, colour or reorder text in a terminal, or break a line or an encoding.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """A mistake in the user's input, in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with code 2.
    """


def printable(text: str) -> str:
    """Return text for a terminal, with escapes in place of control characters."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def override(key: str, value: str | Mapping[str, str | None]) -> str:
    """Return a setting as typed in a shell, quoted for the shell and for Hydra.

    Args:
        key: The setting.
        value: Text, or a mapping whose keys pass `is_key`.
    """
    if not isinstance(value, str):
        items = [_SPECIAL.sub(r"\\\1", name) + ": " + quote(new) for name, new in value.items()]
        return shlex.quote(f"{key}={{{', '.join(items)}}}")
    plain = re.fullmatch(r"(\.{0,2}/)*[A-Za-z_][\w./-]*", value, re.ASCII) and not _is_literal(value)
    return f"{key}={value}" if plain else shlex.quote(f"{key}={quote(value)}")


def is_key(name: str) -> bool:
    """Whether a name can be typed as the key of a mapping: Hydra cannot quote it there, and reads 1.50 as a number."""
    number = re.fullmatch(r"[+-]?\d[\d_]*|[+-]?(\d[\d_.]*|\.\d+)(e[+-]?\d+)?", name, re.IGNORECASE)
    if number or _is_literal(name):
        return name.isdigit() or ("." in name and str(float(name)) == name)
    return bool(re.fullmatch(r"[\w/\-+.$%*@?| \\()\[\]{}:=,]+", name, re.ASCII)) and name == name.strip()


def _is_literal(text: str) -> bool:
    """Whether Hydra reads a text as a constant, unless it is quoted."""
    return text.lower().lstrip("+-") in ("null", "true", "false", "inf", "nan")


def quote(value: str | None) -> str:
    """Return a value as Hydra reads it as text."""
    # A backslash is an ordinary character unless it precedes a quotation mark.
    return "null" if value is None else '"' + re.sub(r'(\\*)("|$)', _double, value) + '"'


def _double(match: re.Match[str]) -> str:
    return match[1] * 2 + ('\\"' if match[2] else "")
