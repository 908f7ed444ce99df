"""Hosting models: one Ray Serve application, OpenAI-compatible, safe by default."""
