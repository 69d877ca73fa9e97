"""How changed heads run: edits of attention outputs, shared prefixes, generation."""
