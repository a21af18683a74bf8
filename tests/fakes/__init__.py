"""Servers that tests talk to over real sockets, as strict as those they stand for."""
