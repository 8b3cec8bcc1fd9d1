"""What connects `covid_xray.sweeps` with Hydra's sweepers and launchers."""
