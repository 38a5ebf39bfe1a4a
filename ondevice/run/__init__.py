"""Replays plans on a device."""
