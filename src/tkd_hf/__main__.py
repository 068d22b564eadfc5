"""Let `python -m tkd_hf` run the command `tkd-hf`."""

from .cli import main


if __name__ == "__main__":
    main()
