"""Connections to channels: where they are, how to sign in, at what pace, and in which state of life they are."""
