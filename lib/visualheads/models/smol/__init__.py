"""SmolLM2 that learned to see: base weights from packages, what was learned here, and the model both make."""
