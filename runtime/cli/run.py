"""`python -m runtime.cli.run` is `grf`, for when the command is not on the path."""

from runtime.cli import main

if __name__ == "__main__":
    main()
