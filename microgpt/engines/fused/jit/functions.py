"""Decorators for the functions that kernels are made of.

They use Numba's public interface, and the module `numba_internals` where this Numba has what that needs: then kernels
compile several times faster, and their machine code can be kept on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from numba.extending import intrinsic, overload, register_jitable

Function = Callable[..., Any]


def _internals() -> ModuleType | None:
    """The module that uses Numba's private interfaces, or None: they differ, or MICROGPT_NUMBA is "public"."""
    if os.environ.get("MICROGPT_NUMBA") == "public":
        return None
    try:
        from microgpt.engines.fused.jit import numba_internals
    except (ImportError, AttributeError):
        return None
    return numba_internals if numba_internals.fits() else None


INTERNALS = _internals()
OPTIONS = {"error_model": "numpy", **({"pipeline_class": INTERNALS.Pipeline} if INTERNALS else {})}


def builder(function: Function) -> Any:
    """A function for kernels from one that returns its signature and what builds its LLVM code."""
    return intrinsic(prefer_literal=True)(function)


def jit(function: Function, inlined: bool = False) -> Any:
    """Let kernels call a function; it is compiled once per combination of argument types."""
    options = {"forceinline": inlined, **OPTIONS}  # an option that is not given is taken over from the caller
    return INTERNALS.jit(function, **options) if INTERNALS else register_jitable(**options)(function)


def inline(function: Function) -> Any:
    """Let kernels call a function whose code is copied into its callers, which are few."""
    return jit(function, inlined=True)


def overloads(name: Function, inlined: bool) -> Callable[[Function], Function]:
    """Decorate a function that, given the argument types of a call of `name`, returns the function to call or None."""
    options = {"forceinline": inlined, **OPTIONS}
    return overload(name, jit_options=options)  # type: ignore[no-any-return]
