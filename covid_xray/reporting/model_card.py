"""The model card: CLAIM 2024, filled in as far as software can, with a mark where a person must write."""

from collections.abc import Mapping
from dataclasses import dataclass

from covid_xray.errors import UserError

TO_FILL = "**TO BE FILLED IN BY THE AUTHORS**"


@dataclass(frozen=True)
class ClaimItem:
    """One item of the checklist, in our words.

    Attributes:
        number: Its number in CLAIM 2024.
        section: The part of a paper that it belongs to.
        asks: What has to be reported.
        software: Whether a finished run can answer it, at least in part.
    """

    number: int
    section: str
    asks: str
    software: bool


def _items() -> tuple[ClaimItem, ...]:
    sections: tuple[tuple[str, tuple[str, ...]], ...] = (
        (
            "Title and abstract",
            ("+The kind of AI method, named as such", "Structured summary of design, methods, results, conclusions"),
        ),
        (
            "Introduction",
            ("Background, intended use and clinical role", "Aims, objectives and hypotheses"),
        ),
        ("EvaluationResult design", ("Prospective or retrospective", "Goal of the study")),
        (
            "Data",
            (
                "+Data sources",
                "Inclusion and exclusion criteria",
                "+Preprocessing of the data",
                "+Selection of data subsets",
                "De-identification",
                "+Handling of missing data",
                "Image acquisition protocol",
            ),
        ),
        (
            "Reference standard",
            (
                "Definition of the reference standard",
                "Why this reference standard",
                "Who annotated, and with which qualification",
                "Annotation of the test set",
                "Variability within and between annotators",
            ),
        ),
        (
            "Data partitions",
            ("+How data were assigned to partitions", "+Level at which partitions are disjoint"),
        ),
        ("Testing data", ("+Intended sample size and how it was found",)),
        (
            "Model",
            ("+Description of the model", "+Software libraries, frameworks, packages", "+Initialisation of parameters"),
        ),
        (
            "Training",
            ("+Training approach, with augmentation and hyper-parameters", "+Choice of the final model", "+Ensembling"),
        ),
        (
            "Evaluation",
            (
                "+Metrics of performance",
                "+Statistical measures of significance and uncertainty",
                "+Robustness or sensitivity analysis",
                "+Explainability",
                "+Evaluation on internal data",
                "+Testing on external data",
                "Clinical trial registration",
            ),
        ),
        (
            "Results: data",
            ("+Numbers of patients and images included and excluded", "Demographic and clinical characteristics"),
        ),
        (
            "Results: performance",
            (
                "+Performance on all partitions, with uncertainty",
                "+Estimates of diagnostic performance and their precision",
                "+Failure analysis",
            ),
        ),
        ("Discussion", ("+Limitations", "Implications for practice, intended use and clinical role")),
        (
            "Other information",
            (
                "Where the full protocol or more technical detail is",
                "+Availability of software, trained model and data",
                "Funding and other support; role of the funders",
            ),
        ),
    )
    flat = [(section, ask) for section, asks in sections for ask in asks]
    # A plus marks what a finished run can answer.
    return tuple(
        ClaimItem(number, section, ask.removeprefix("+"), ask.startswith("+"))
        for number, (section, ask) in enumerate(flat, start=1)
    )


CLAIM_ITEMS = _items()
DISCLAIMER = "For research and teaching. Not a medical device, not for diagnosis."


def render_model_card(
    name: str, answers: Mapping[int, str], key_figures: Mapping[str, str] | None = None, warnings: tuple[str, ...] = ()
) -> str:
    """The model card as Markdown: disclaimer, key figures, warnings, then every CLAIM item with an answer or a mark.

    Args:
        name: Name of the model.
        answers: What the software knows, by CLAIM number; Markdown, may have several lines.
        key_figures: Numbers for the head, by name.
        warnings: What the reader must know first.

    Raises:
        UserError: If an answer belongs to no item.

    Source: Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging, 2024 update (44 items).
    """
    if unknown := sorted(set(answers) - {item.number for item in CLAIM_ITEMS}):
        raise UserError(f"CLAIM 2024 has items 1 to {len(CLAIM_ITEMS)}, not {unknown[0]}")
    filled = sum(bool(answers.get(item.number, "").strip()) for item in CLAIM_ITEMS)
    lines = [f"# Model card: {name}", "", f"**{DISCLAIMER}**", ""]
    lines += [f"> Warning: {_one_line(words)}" + "\n" for words in warnings]
    if key_figures:
        lines += ["| Figure | Value |", "|---|---|"]
        lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in key_figures.items()]
        lines.append("")
    lines += [
        "## CLAIM 2024",
        "",
        f"{filled} of {len(CLAIM_ITEMS)} items are filled in from the run's own records. The others, marked "
        f"{TO_FILL}, need a person who knows the study; what is filled in needs one to read it.",
    ]
    section = ""
    for item in CLAIM_ITEMS:
        if item.section != section:
            section = item.section
            lines += ["", f"### {section}", ""]
        answer = answers.get(item.number, "").strip() or TO_FILL
        # Four spaces keep further lines, lists and tables within the item.
        lines.append(f"- **{item.number}. {item.asks}**: " + answer.replace("\n", "\n    "))
    return "\n".join(lines) + "\n"


def unanswered(answers: Mapping[int, str]) -> tuple[ClaimItem, ...]:
    """Items that a finished run can answer, but that have no answer yet."""
    return tuple(item for item in CLAIM_ITEMS if item.software and not answers.get(item.number, "").strip())


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _cell(words: str) -> str:
    return _one_line(words).replace("|", "\\|")
