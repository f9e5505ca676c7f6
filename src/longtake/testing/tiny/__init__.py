"""Random-weight models small enough for a test, one module per family."""
