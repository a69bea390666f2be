"""``python -m taskloom``: the command ``taskloom``, where its script is not on the path."""

from taskloom.cli.main import main

if __name__ == "__main__":
    main()
