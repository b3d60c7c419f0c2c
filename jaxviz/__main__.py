"""`python -m jaxviz` is the command `jaxviz`."""

from jaxviz.cli import main

if __name__ == "__main__":
    main()
