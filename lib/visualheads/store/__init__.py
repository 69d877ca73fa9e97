"""Labelled results on disk: schema, writing, reading, combining. Knows no models."""
