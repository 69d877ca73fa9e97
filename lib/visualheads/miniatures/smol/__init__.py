"""SmolLM2 that learns to see: a world of emoji scenes, the joined model, its training and evaluation."""
