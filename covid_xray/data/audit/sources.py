"""Whether the images can tell a class from a source."""

from collections.abc import Sequence

import pandas as pd

_SHOWN = 3


def confounded_classes(labels: Sequence[str], sources: Sequence[str]) -> dict[str, list[str]]:
    """Find the classes that share no source with another class, with their sources.

    For such a class, a model that recognises the source and a model that recognises the disease give the same answers
    on all these images, so no method can separate the two.
    """
    table = pd.DataFrame({"label": list(labels), "source": list(sources)}).drop_duplicates()
    shared = table.groupby("source")["label"].transform("size") > 1
    found = {str(label): sorted(part["source"]) for label, part in table.groupby("label")}
    return {label: found[label] for label in found if not shared[table["label"] == label].any()}


def confounding_text(labels: Sequence[str], sources: Sequence[str]) -> str:
    """Sentences that name such classes and the images that would separate them from their sources; empty if none.

    All classes of a collection with one source share it, so there is nothing to separate.
    """
    found = confounded_classes(labels, sources)
    names, places = sorted(set(labels)), sorted(set(sources))
    texts = []
    for label, own in found.items():
        others = [source for source in places if source not in own]
        if others:
            rest = [name for name in names if name != label]
            texts.append(
                f"Every {label} image comes from {_few(own, 'and')}, and no image of another class does: no method can "
                f"separate this class from its source. Images that could: {label} images from {_few(others, 'or')}, or "
                f"{_few(rest, 'or')} images from {_few(own, 'or')}."
            )
    return " ".join(texts)


def separation_problem(labels: Sequence[str], sources: Sequence[str]) -> str:
    """Why no method can separate the label from the source; empty if one can.

    Classes and sources form a graph: a class and a source are linked where the source has images of the class. If the
    graph has several parts, the source gives away the part, so every difference between the classes of two parts may
    be one of their sources. This is the condition under which differences between classes can be estimated in a
    two-way layout with empty cells (Searle 1987, connected data).
    """
    table = pd.DataFrame({"label": list(labels), "source": list(sources)}).drop_duplicates()
    names, places = sorted(table["label"].unique()), sorted(table["source"].unique())
    if len(places) < 2:
        return f"all images have one source ({', '.join(places)}), so there is no other source to compare with"
    joined: list[str] = []
    wider = names[:1]
    while wider != joined:
        joined = wider
        own = sorted(table["source"][table["label"].isin(joined)].unique())
        wider = sorted(table["label"][table["source"].isin(own)].unique())
    if joined == names:
        return ""
    rest, others = [name for name in names if name not in joined], [place for place in places if place not in own]
    return (
        f"no source has both {_few(joined, 'or')} and {_few(rest, 'or')} images, so the source gives the label away; "
        f"add {_few(joined, 'or')} images from {_few(others, 'or')}, or {_few(rest, 'or')} images from "
        f"{_few(own, 'or')}"
    )


def held_out_problem(labels: Sequence[str], sources: Sequence[str], source: str) -> str:
    """Why a source cannot be the test set of a model that learns from all other sources; empty if it can."""
    table = pd.DataFrame({"label": list(labels), "source": list(sources)})
    inside = table["source"] == source
    tested, learned = (sorted(table["label"][rows].unique()) for rows in (inside, ~inside))
    if not tested:
        return f"no image comes from it; the sources are {', '.join(sorted(filter(None, table['source'].unique())))}"
    if len(tested) == 1:
        return f"all its images are {tested[0]}"
    if missing := [label for label in tested if label not in learned]:
        return f"no other source has {_few(missing, 'or')} images"
    return ""


def _few(names: Sequence[str], word: str) -> str:
    """The first names as text: ``a, b and c``."""
    shown = list(names[:_SHOWN]) + ([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])
    return f"{', '.join(shown[:-1])} {word} {shown[-1]}" if len(shown) > 1 else shown[0]
