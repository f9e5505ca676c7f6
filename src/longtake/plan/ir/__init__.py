"""Actions of ranks, their text form, and the compilers that make them."""
