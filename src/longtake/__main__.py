"""``python -m longtake`` (and ``torchrun -m longtake``) is ``longtake``."""

from longtake.framework.cli import main

if __name__ == "__main__":
    main()
