"""Texts from files that nobody vouches for, parsed within bounds."""
