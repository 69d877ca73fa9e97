"""Experiments that load a model and leave a store: ablation, steering, sinks, the full protocol."""
