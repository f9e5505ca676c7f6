"""Costs of plans: hardware profiles, the simulator, the picture of a timeline."""
