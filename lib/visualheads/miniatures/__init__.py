"""The embedded default: a glyph world, small networks of the paper's architectures, and their training."""
