"""``python -m covid_xray`` is ``covid-xray``."""

from covid_xray.cli import main

if __name__ == "__main__":
    main()
