"""Models in other formats than bundles."""
