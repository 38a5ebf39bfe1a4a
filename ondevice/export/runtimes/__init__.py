"""What runs the components of an export, a module per runtime."""
