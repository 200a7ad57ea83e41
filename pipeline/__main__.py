"""``python -m pipeline`` is the console script ``billing``."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
