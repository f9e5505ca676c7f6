"""Console output: messages for mistakes, reports."""
