"""The LightningModule, its callbacks, and the loggers."""
