"""The model card, read by a Markdown parser."""

import json
from pathlib import Path

from fake_result import CLASSES, EVIL, make_result
from markdown_it import MarkdownIt

from covid_xray.reporting.model_card import CLAIM, escape_markdown, model_card

TO_FILL = "**TO BE FILLED IN BY THE AUTHORS**"
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def test_claim_has_44_items() -> None:
    assert [int(number) for items in CLAIM.values() for number in items] == list(range(1, 45))


def test_card_is_the_markdown_that_it_should_be(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    card = model_card(result)
    assert card.count(TO_FILL) == 44 - 26 + 1
    assert "26 of 44 items" in card
    tokens = PARSER.parse(card)
    inline = [part for token in tokens for part in token.children or []]
    assert {token.type for token in tokens if "html" in token.type} == set()
    assert {part.type for part in inline} == {"text", "strong_open", "strong_close", "softbreak"}
    # Bold text is the notice, the 44 items and the marks.
    assert [part.type for part in inline].count("strong_open") == 1 + 44 + card.count(TO_FILL)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[0] == r"Model card: run\_1 \*x\*"
    assert headings[1:] == ["CLAIM 2024", *CLAIM]
    codes = [json.loads(token.content) for token in tokens if token.type == "fence"]
    config = result.run.config
    assert codes == [config["model"], {"schedule": config["schedule"], "augment": config["augment"]}]
    assert sum(token.type == "list_item_open" for token in tokens) == 44 + len(CLASSES)
    assert sum(token.type == "tr_open" for token in tokens) == 1 + 6
    assert sum(token.type == "td_open" for token in tokens) == 2 * 6
    texts = [
        "".join(part.content for part in token.children or [] if part.type == "text")
        for token in tokens
        if token.type == "inline"
    ]
    for text in (
        "Warning: Leak: 1 image.",
        "Warning: It uses a shortcut.",
        f"7. Data sources: Sources of the test images: {EVIL} (68).",
        f"1. The kind of AI method, named as such: A convolutional network (a_b.Net) that classifies chest X-rays: "
        f"{', '.join(CLASSES)}.",
        "10. Selection of data subsets: Images by subset: test 2, train 1.",
        "20. Level at which partitions are disjoint: By image: 1 patients are in more than one subset. Leak: 1 image.",
        "24. Initialisation of parameters: Pretrained weights: none (random).",
        "31. Explainability: The maps depend on the weights.",
        "32. Evaluation on internal data: 68 images of 34 patients of the run's own data, split by patient, fold 2 of "
        "5",
    ):
        assert text in texts, text
    sensitivity = result.metrics["sensitivity/covid-19"].text(percent=True)
    assert any(text.startswith(f"Class covid-19 (8 images): sensitivity {sensitivity};") for text in texts)


def test_external_data(tmp_path: Path) -> None:
    card = model_card(make_result(tmp_path, is_own_data=False, gallery=None, no_gallery="Left out.", leaks=()))
    assert "**32. Evaluation on internal data**: Not in this evaluation." in card
    assert "**33. Testing on external data**: 68 images of 34 patients of another data set (external test)" in card
    assert "**31. Explainability**: Left out." in card
    assert "No patient and no file is in two subsets." in card


def test_escaped_text_forms_nothing() -> None:
    for text in (EVIL, "a\\`b`", "![i](x)", "<http://x>", "~~s~~", "a\n\n# b", "&lt;", "_e_", "| a | b |", "x\\"):
        tokens = PARSER.parse(f"Text: {escape_markdown(text)}")
        assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"], text
        parts = tokens[1].children or []
        assert {part.type for part in parts} <= {"text", "text_special"}, text
        assert "".join(part.content for part in parts) == f"Text: {' '.join(text.split())}"
        table = PARSER.parse(f"| a |\n|---|\n| {escape_markdown(text)} |")
        cell = table[[token.type for token in table].index("td_open") + 1].children or []
        assert "".join(part.content for part in cell) == " ".join(text.split()), "one cell"
    # GitHub makes links of these without any markup.
    assert "://" not in escape_markdown(EVIL)
    assert "www." not in escape_markdown(EVIL)
