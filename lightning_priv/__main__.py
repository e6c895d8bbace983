"""``python -m lightning_priv``."""

from lightning_priv.cli import main

if __name__ == "__main__":
    main()
