"""Take screenshots of TensorBoard: start it, and open its pages in a headless Chromium.

    .venv/bin/python docs/screenshots.py outputs

This writes the curves (``tensorboard.png``), the custom charts (``tensorboard-charts.png``) and the table of
hyperparameters (``tensorboard-hparams.png``) beside this file, or into the folder ``--output``.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FILTER = quote("^(lr/|val/accuracy|(train|val)/loss)", safe="")
PAGES = {
    "tensorboard.png": (f"#scalars&_smoothingWeight=0&tagFilter={FILTER}", (1600, 760)),
    "tensorboard-charts.png": ("#custom_scalars&_smoothingWeight=0", (1600, 1300)),
    "tensorboard-hparams.png": ("#hparams", (1600, 420)),
}


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path, help="folder of runs, such as outputs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder for the screenshots")
    parser.add_argument("--seconds", type=int, default=20, help="seconds that the page may load")
    arguments = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser found; install one of {', '.join(BROWSERS)}")
    if not any(arguments.logdir.rglob("events.out.tfevents.*")):
        sys.exit(f"{arguments.logdir} holds no TensorBoard files; train a run first")
    command = ["-m", "tensorboard.main", "--logdir", str(arguments.logdir), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as board:
        try:
            address = _address(board)
            _wait_for_runs(address)
            arguments.output.mkdir(parents=True, exist_ok=True)
            for name, (page, size) in PAGES.items():
                file = arguments.output / name
                _screenshot(browser, f"{address}/{page}", size, arguments.seconds, file)
                print(file)
        finally:
            board.terminate()


def _address(board: "subprocess.Popen[str]") -> str:
    assert board.stdout is not None
    output = ""
    for line in board.stdout:
        output += line
        if " at http://" in line:
            return line.split(" at ")[1].split()[0].rstrip("/")
    sys.exit(f"TensorBoard does not start: {output}")


def _wait_for_runs(address: str, seconds: float = 120) -> None:
    """Wait until the list of runs no longer grows, because TensorBoard reads the files while it serves."""
    before, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        with urlopen(f"{address}/data/plugin/scalars/tags", timeout=60) as answer:  # noqa: S310 our own address
            now = answer.read()
        if len(now) == len(before) > 2:
            return
        before = now
        time.sleep(3)


def _screenshot(browser: str, url: str, size: tuple[int, int], seconds: int, file: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={1000 * seconds}",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={file.resolve()}",
        ]
        done = subprocess.run([browser, *options, url], capture_output=True, text=True, timeout=600, check=False)  # noqa: S603
    if done.returncode or not file.is_file():
        sys.exit(f"{browser} made no screenshot of {url}: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    main()
