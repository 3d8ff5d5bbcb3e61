"""Model runners: the only code that knows an architecture."""
