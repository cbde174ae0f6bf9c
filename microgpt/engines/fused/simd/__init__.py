"""SIMD vectors, products and transposes: functions that compile to single instructions or short loops."""
