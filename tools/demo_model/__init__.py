"""Parts of the demo model's trainer (see ``tools/train_demo_model.py``)."""
