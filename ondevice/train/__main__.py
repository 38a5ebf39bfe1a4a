"""`python -m ondevice.train`."""

from ondevice import cli

if __name__ == "__main__":
    raise SystemExit(cli.main_for("train"))
