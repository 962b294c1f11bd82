"""``python -m proctor`` is the command ``proctor``."""

from proctor.cli import command

if __name__ == "__main__":
    command()
