"""Lets `python -m tokenreduce` be the command `tokenreduce`."""

from tokenreduce.cli import main

if __name__ == "__main__":
    main()
