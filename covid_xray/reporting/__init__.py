"""HTML reports, the model card and tables."""
