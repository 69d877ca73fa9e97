"""Builders that tests share: small networks, files, stores, pages."""
