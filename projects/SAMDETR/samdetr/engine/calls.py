"""The calls that a config describes: whether they can be made, as far as names and types say it."""

from __future__ import annotations

import difflib
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from detectron2.utils.registry import locate
from torch import nn

from ..data.errors import shown
from ..errors import ConfigError

AT_RUN_TIME = {"optimizer.params.model"}  # arguments that a config does not have
LEGACY = "cfg"  # with this argument Detectron2's `configurable` replaces all others
# What an argument may be, and how to say it. A bool is an int to Python, not here.
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "an integer"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "null"),
}
LISTS = (list, tuple, Sequence)
LARGEST = 2**63


def check_calls(content: Any, key: str = "") -> None:
    """Check every `_target_` with the arguments beside it; nothing is called.

    Args:
        content: of a config, resolved.
        key: of the content in the config.

    Raises:
        ConfigError: if a target is not there or cannot be called, if an argument is missing or
            unknown, or if one is of another type than the target's annotation; if an integer is
            larger than torch takes.
    """
    if type(content) is int and not -LARGEST <= content < LARGEST:  # Python may not even print it
        raise ConfigError(f"{key} has {content.bit_length()} bits, expected an integer of 64 bits")
    for name, value in _items(content):
        if isinstance(name, str) and is_one_edit(name, "_target_"):
            raise ConfigError(f"{key}.{name}: there is no such key, its nearest is '_target_'")
        check_calls(value, f"{key}.{name}".lstrip("."))
    if isinstance(content, Mapping) and "_target_" in content:
        target = find_target(content, key)
        if target is not None:
            _check_arguments(target, {k: v for k, v in content.items() if k != "_target_"}, key)


def argument(call: Mapping[str, Any], name: str, key: str) -> Any:
    """What a call of the config gets for an argument, its default included; None for nothing.

    Args:
        call: with a `_target_`.
        name: of the argument.
        key: of the call in the config.
    """
    if name in call:
        return call[name]
    target = find_target(call, key)
    defaults = {x.name: x.default for x in (target and _parameters(target)) or ()}
    return None if defaults.get(name) is inspect.Parameter.empty else defaults.get(name)


def find_target(call: Mapping[str, Any], key: str) -> Any:
    """What a call of the config calls; None if another call makes it."""
    target, key = call["_target_"], f"{key}._target_"
    if isinstance(target, Mapping) and "_target_" in target:
        return None
    found = target
    if isinstance(target, str):
        try:
            found = locate(target)
        except Exception as error:  # an import can fail in any way
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"{key} is {shown(target)}, which cannot be found: {reason}"
            ) from error
    if not callable(found):
        raise ConfigError(
            f"{key} is {shown(target)}, which cannot be called: expected a class or a function"
        )
    return found


def is_near(name: str, known: str) -> bool:
    """If a name is likely to be a misspelt one that is known."""
    return is_one_edit(name, known) or difflib.SequenceMatcher(None, name, known).ratio() >= 0.8


def is_one_edit(name: str, known: str) -> bool:
    """If one letter is added, left out or another, or two have changed places."""
    start = len(os.path.commonprefix([name, known]))
    name, known = name[start:], known[start:]
    end = len(os.path.commonprefix([name[::-1], known[::-1]]))
    name, known = name[: len(name) - end], known[: len(known) - end]
    return max(len(name), len(known)) == 1 or (len(name) == 2 and name == known[::-1])


def _items(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, list | tuple):
        yield from enumerate(content)


def _check_arguments(target: Any, arguments: Mapping[Any, Any], key: str) -> None:
    parameters = _parameters(target)
    if parameters is None or LEGACY in arguments:
        return
    name_of_target = getattr(target, "__qualname__", target)
    takes_any = any(x.kind is x.VAR_KEYWORD for x in parameters)
    known = {x.name: x for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)}
    for name in arguments:
        near = [x for x in known if is_near(str(name), x)]
        if name not in known and (near or not takes_any):
            nearest = near or difflib.get_close_matches(str(name), known, 1, 0.0)
            hint = f", its nearest is {nearest[0]!r}" if nearest else ""
            raise ConfigError(f"{key}.{name}: {name_of_target} has no such argument{hint}")
    for name, parameter in known.items():
        if name in arguments:
            _check_type(arguments[name], parameter, f"{key}.{name}")
        elif parameter.default is parameter.empty and f"{key}.{name}" not in AT_RUN_TIME:
            raise ConfigError(f"{key} lacks {name!r}, which {name_of_target} needs")


def _parameters(target: Any) -> list[inspect.Parameter] | None:
    for resolve in (True, False):
        try:
            return [*inspect.signature(target, eval_str=resolve).parameters.values()]
        except (TypeError, ValueError):  # of what is written in C
            return None
        except Exception:  # noqa: S112 - annotations may name what is not imported at run time
            continue
    return None


def _check_type(value: Any, parameter: inspect.Parameter, key: str) -> None:
    if value is None and parameter.default is None:  # annotations often leave that out
        return
    wanted = _wanted(value, parameter.annotation)
    if wanted:
        raise ConfigError(f"{key} is {shown(value)}, expected {wanted}")


def _wanted(value: Any, annotation: Any) -> str:
    """What a value should be; "" if it is that, or if it takes more than a config to tell."""
    if isinstance(value, Mapping) and "_target_" in value:
        return ""
    if get_origin(annotation) in LISTS:
        inner = get_args(annotation)[:1] or (Any,)
        if not isinstance(value, list | tuple):
            return "a list"
        wrong = {x for x in (_wanted(x, inner[0]) for x in value) if x}
        return f"a list with {' or '.join(sorted(wrong))} in every place" if wrong else ""
    options = _options(annotation)
    if all(_is_part(x) for x in options):
        plain = value is None or isinstance(value, bool | int | float | str | list | Mapping)
        return "a part, with a _target_" if plain else ""
    if any(x not in KINDS for x in options):
        return ""
    if any(type(value) in KINDS[x][0] for x in options):
        return ""
    return " or ".join(KINDS[x][1] for x in options)


def _is_part(annotation: Any) -> bool:
    """If an annotation says that something has to be called, of which plain data is nothing."""
    called = inspect.isclass(annotation) and issubclass(annotation, nn.Module)
    return called or annotation is Callable or get_origin(annotation) is Callable


def _options(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)
