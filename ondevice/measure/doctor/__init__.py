"""Whether a device computes a bundle's launches as a device that is trusted does (docs/doctor.md)."""
