"""Paths on the command line as people type them: with ``=``, commas or blanks in the names of folders, and with ``~``.

Hydra's grammar gives these characters a meaning, so such a value must be quoted before Hydra reads it.
"""

import os
import re
from collections.abc import Iterator, Sequence

from covid_xray.errors import quote

_PLAIN = re.compile(r"[\w./-]*")
_GRAMMAR = re.compile(r"['\"(){}\[\]$]")  # quotes, calls, mappings, lists and interpolations
_HOME = re.compile(r"""(['"]?)~(?=['"/]|$)""")


def literal_paths(words: Sequence[str]) -> list[str]:
    """Quote the values that are paths with special characters, and replace a leading ``~`` by the home folder.

    A value is a path if there is such a file or folder, or if it contains ``=`` and nothing that Hydra could read. This
    is the same for all settings; the items of a list, and the values of a sweep, count one by one.

    Args:
        words: Options and overrides such as ``run=outputs/seeds/sweep/seed=1`` or ``runs=[a/seed=0,a/seed=1]``.
    """
    sweep = bool({"-m", "--multirun"} & set(words))
    return [word if word.startswith(("-", "~")) else _literal(word, sweep) for word in words]


def _literal(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if value[:1] == "[" and value[-1:] == "]" and not os.path.lexists(value):
        return f"{key}=[{','.join(_item(item) for item in _items(value[1:-1]))}]"
    return key + equals + (",".join(_item(item) for item in _items(value)) if sweep else _item(value))


def _items(text: str) -> Iterator[str]:
    """The parts between commas; a comma within the name of a file or folder does not separate."""
    parts = text.split(",")
    while parts:
        count = next((n for n in range(len(parts), 1, -1) if os.path.lexists(_home(",".join(parts[:n])))), 1)
        yield ",".join(parts[:count])
        del parts[:count]


def _item(text: str) -> str:
    path = _home(text)
    if _PLAIN.fullmatch(path):
        return path
    if os.path.lexists(path):
        return quote(path)
    is_path = ("=" in path or path != text) and not _GRAMMAR.search(path)
    return quote(path.strip()) if is_path else path


def _home(text: str) -> str:
    return _HOME.sub(lambda found: found[1] + os.path.expanduser("~"), text) if _HOME.match(text) else text  # noqa: PTH111
