"""Engine: noise and prompts in, video frames out. No Lightning here."""
