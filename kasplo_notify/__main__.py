"""`python -m kasplo_notify` is `kasplo-notify`."""

from kasplo_notify.cli import main

if __name__ == "__main__":
    main()
