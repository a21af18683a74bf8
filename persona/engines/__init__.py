"""Engines: what turns token ids into text. One protocol, several libraries behind it."""
