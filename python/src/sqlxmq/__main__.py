"""python -m sqlxmq: the command line."""

from sqlxmq.cli import main

if __name__ == "__main__":
    main()
