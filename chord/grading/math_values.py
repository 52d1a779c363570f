"""Whether two values of computer algebra (sympy) are equal: exactly where they are rational, to 500 digits elsewhere.

Formulas with variables are equal if they are wherever both have a real value, which is looked at in some points. Part
of the math grader's child process, which bounds time and memory; nothing else imports it.
"""

from typing import Any, cast

from sympy import Expr, I, MatrixBase, MatrixExpr, Pow, Rational, Symbol, log, nan, oo, zoo  # pyright: ignore[reportUnknownVariableType]
from sympy.core.evalf import PrecisionExhausted

DIGITS = 1_000  # to which a difference is worked out before it counts as none; half as many then have to be zero
POINTS = 6  # in which formulas are compared, and to how many digits; to be equal by chance there is out of the question
POINT_DIGITS = 100
IMAGINARY: dict[Any, Any] = {Symbol("i", real=True): I, Symbol("i", real=False): I, Symbol("i"): I}


def same_value(one: Any, other: Any) -> bool:
    """Whether two numbers, formulas or matrices are equal. Raises whatever sympy raises."""
    if isinstance(one, (MatrixBase, MatrixExpr)) or isinstance(other, (MatrixBase, MatrixExpr)):
        ours, theirs = cast(Any, one).doit(), cast(Any, other).doit()
        return ours.shape == theirs.shape and all(map(same_value, ours.flat(), theirs.flat()))
    ours, theirs = (value.doit().xreplace(IMAGINARY) for value in (one, other))
    if ours == theirs:
        return True
    if not all(isinstance(v, Expr) for v in (ours, theirs)) or any(v.has(oo, -oo, nan, zoo) for v in (ours, theirs)):
        return False
    difference = ours - theirs
    if difference.is_Rational:
        return difference == 0
    symbols = sorted(difference.free_symbols, key=str)
    return _same_everywhere(ours, theirs, symbols) if symbols else _vanishes(difference, ours)


def _vanishes(difference: Any, value: Any, digits: int = DIGITS) -> bool:
    """Whether a difference of two values, of which `value` is one, without variables cannot be told from zero."""
    try:
        return bool(difference.evalf(15, maxn=digits, strict=True) == 0)
    except PrecisionExhausted:  # also where sympy cannot do better, as with integrals: so its size counts
        size, whole = (abs(each.evalf(15, maxn=digits)) for each in (difference, value))
        return bool(size <= Rational(1, 10 ** (digits // 2)) * whole)


def _same_everywhere(one: Any, other: Any, symbols: list[Any]) -> bool:
    """Whether two formulas are equal in all points in which both are real; or in all, if they are so nowhere."""
    real, rest = list[bool](), list[bool]()
    for number in range(POINTS):
        point = _point(number, symbols)
        ours, theirs = (formula.xreplace(point).doit() for formula in (one, other))
        if any(value.has(oo, -oo, nan, zoo) for value in (ours, theirs)):
            continue
        if not (ours.is_number and theirs.is_number):
            return bool((one - other).simplify() == 0)
        found = real if _is_real(one, point) and _is_real(other, point) else rest
        if found is real or not real:
            found.append(_vanishes(ours - theirs, ours, POINT_DIGITS))
        if real and not real[-1]:
            return False
    return all(real or rest) if real or rest else bool((one - other).simplify() == 0)


def _point(number: int, symbols: list[Any]) -> dict[Any, Any]:
    """Fractions of both signs, below and above one, in place of the variables; the first point is all positive."""
    point = dict[Any, Any]()
    for place, symbol in enumerate(symbols):
        over, under = 197 + 59 * number + 31 * place, 60 + 13 * number + 7 * place
        sign = -1 if number >> (place % 3) & 1 else 1
        point[symbol] = sign * (Rational(over, under) if number % 4 < 2 else Rational(under, over))
    return point


def _is_real(formula: Any, point: dict[Any, Any]) -> bool:
    """Whether each root and logarithm of the formula is one of a number that is not negative."""
    inner: list[Any] = [power.base for power in formula.atoms(Pow) if not power.exp.is_integer]
    inner += [each.args[0] for each in formula.atoms(log)]
    return not formula.has(I) and all(base.xreplace(point).evalf(15).is_nonnegative for base in inner)
