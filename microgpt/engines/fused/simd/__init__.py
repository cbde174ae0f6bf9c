"""A small vocabulary of SIMD, written as functions that the compiler turns into single instructions."""
