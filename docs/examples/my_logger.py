"""A logger of your own: one JSON line per step in the run folder."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class JsonLinesLogger(Logger):
    """Write ``log.jsonl``.

    Args:
        save_dir: The run folder; the project gives it.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.file = Path(save_dir) / "log.jsonl"

    @property
    def name(self) -> str:
        """Lightning asks for a name."""
        return "json-lines"

    @property
    def version(self) -> str:
        """Lightning asks for a version."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line."""
        self._add({"step": step, **metrics})

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Add a line with all settings."""
        self._add({"settings": params if isinstance(params, dict) else vars(params)})

    # The next three make it a `RunLogger`, which has every step once after a kill.
    def open(self, run_id: str, name: str, first_step: int) -> None:
        """Begin anew: the project logs again what the run logged before it was stopped."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("")

    def log_file(self, name: str, text: str) -> None:
        """Store a text, such as the configuration."""

    def close(self, failed: bool) -> None:
        """Nothing is open."""

    def _add(self, line: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
