"""Entry point of ``python -m longtake`` (and ``torchrun -m longtake``): ``longtake``."""

from longtake.framework.cli import main

if __name__ == "__main__":
    main()
