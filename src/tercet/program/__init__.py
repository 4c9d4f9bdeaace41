"""Tercet's own small language: programs, their checks, their text and their passes."""
