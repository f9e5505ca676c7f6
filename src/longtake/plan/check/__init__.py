"""Validation of plans: all ranks' actions played together without tensors."""
