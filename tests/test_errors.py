"""The settings that messages advise: the shell and Hydra accept them as printed."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from covid_xray.errors import is_key, override

TEXTS = (
    *("a", "a\\b", 'a"b', 'a\\"b', "a\\", "a\\\\", "it's", "ü (x)=,{}[]", "", "~/x", "null", "1", "/a b/c", "../m.csv"),
    *("a(b)", "a:b", "a=b", "a,b", "a[b]", "a b", "COVID+", "a|b", "a&b", "a#b", "0", "1.0", "1.50", "01", "true"),
    *("1e3", "a;b", "~a", "a!b", "$a", "%a", " a", "nan", "-1", "1_0", ".5", "0.00001", "12345678901234567890"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_shell_and_hydra(text: str) -> None:
    (typed,) = shlex.split(override("key", text))
    assert OverridesParser.create().parse_override(typed).value() == text
    if is_key(text):
        (typed,) = shlex.split(override("key", {text: text}))
        value = OverridesParser.create().parse_override(typed).value()
        assert isinstance(value, dict)
        assert [(str(name), new) for name, new in value.items()] == [(text, text)]


def test_most_names_are_keys() -> None:
    assert all(map(is_key, ("covid-19", "COVID 19", "covid+", "0", "1.0", "No_finding", "a (b)")))
