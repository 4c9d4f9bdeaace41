"""Attacks on a trained model: what it gives away about the records that it was trained on."""
