"""The figure that all plots are drawn in."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

# Widths in inches, as the report shows them.
FULL_WIDTH, HALF_WIDTH = 11.5, 5.6


class PlainFigure(Figure):
    """A figure that shows every text as it is: a class called ``$x$`` is no formula."""

    def draw(self, renderer: Any) -> None:
        """Draw, without reading formulas."""
        with mpl.rc_context({"text.parse_math": False}):  # for tick labels that are made while drawing
            for text in self.findobj(Text):
                assert isinstance(text, Text)
                text.set_parse_math(False)
            super().draw(renderer)
