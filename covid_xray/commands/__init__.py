"""One file per command of ``covid-xray``: read the settings, call the package, print.

``_build.py`` makes objects from a configuration; ``sweep/`` is the Hydra part of sweeps.
"""
