"""Randomness, keys and identities: what the secrecy of everything else rests on."""
