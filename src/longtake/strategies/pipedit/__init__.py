"""PipeDiT's parts: attention co-processing (Aco), decoding tiles together."""
