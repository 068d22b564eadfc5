"""`python -m tkd_hf`: the command `tkd-hf`, of this interpreter."""

from .cli import main


if __name__ == "__main__":
    main()
