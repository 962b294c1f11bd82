"""``python -m proctor`` is the command ``proctor``."""

from proctor.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
