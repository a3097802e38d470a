"""``tandem -m pipelines.cli`` is ``tandem``."""

from pipelines.cli.root import main

if __name__ == "__main__":
    main()
