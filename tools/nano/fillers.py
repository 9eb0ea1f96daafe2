"""Words that are made rather than listed: numbers, equations, snippets of code, small tables, passages."""

import re
from collections.abc import Callable, Mapping, MutableMapping
from random import Random

from .phrases import words

_FIELD = re.compile(r"\{([a-z_]+)(\d*)\}")

_SENTENCES = (
    "{name} went to {city} in {month} and stayed for a {span}.",
    "The {event} was planned for {people}, but it rained all day.",
    "Many people in {place} remember {happening}.",
    "Our {column} rose by {percent} in {month}.",
    "The {structure} was written in {lang} and nobody had tested it.",
    "{substance} is used in many households.",
    "{figure} is said to have visited {landmark}.",
    "{animal} are often seen near the river.",
    "She bought {small} {thing} at the {shop} and paid {int} cents.",
    "{org} published a report about {process}.",
    "My {relative} never liked {topic}.",
    "The meeting about {about} lasted until {hour}.",
    "Nobody could say where the {goods} had come from.",
    "In the end everyone agreed that it had been a good idea.",
    "There were some problems at first, but they were solved quickly.",
    "It is not easy to explain this in a few words.",
)
_SNIPPETS = (
    "def {verb}({a}):\n    for i in range(len({a})):\n        {b} = {a}[i]\n    return {b}",
    "def {verb}({a}, {b}):\n    return {a} + {b}",
    "for (let i = 0; i < {a}.length; i++) {{\n  console.log({a}[i]);\n}}",
    "const {b} = {a}.map(x => x * {n});",
    "int {verb}(int {a}) {{\n  return {a} * {n};\n}}",
    "while True:\n    {a} = {verb}({b})\n    if {a} > {n}:\n        break",
    "public static int {verb}(int[] {a}) {{\n    return {a}[{n}];\n}}",
    "fn {verb}({a}: &str) -> usize {{\n    {a}.len() + {n}\n}}",
    "if {a} is None:\n    raise ValueError('{b}')\nprint({a})",
    "function {verb}({a}) {{ return {a}.filter(Boolean); }}",
    "class {verb}:\n    def __init__(self, {a}):\n        self.{a} = {a}",
    "try:\n    {verb}({a})\nexcept KeyError:\n    pass",
    'for f in *.txt; do mv "$f" "${{f%.txt}}.bak"; done',
    "import os\nprint(os.listdir('{a}'))",
    "{a} = [{n}, 2, 3]\nprint({a}[{n}])",
)


def fill(template: str, rng: Random, topic: MutableMapping[str, str], given: Mapping[str, str]) -> str:
    """Fill every `{word}`. `given` wins; listed words are kept in `topic`, made ones are fresh each time."""
    fresh: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        name, table = match[0][1:-1], match[1]
        if name in given:
            return given[name]
        kept = fresh if table in MAKERS else topic
        if name not in kept:
            kept[name] = MAKERS[table](rng) if table in MAKERS else rng.choice(words()[table])
        return kept[name]

    return _FIELD.sub(value, template)


def _integer(rng: Random) -> str:
    return str(rng.choice((rng.randint(2, 99), rng.randint(10, 999), rng.randint(100, 9999))))


def _small(rng: Random) -> str:
    return str(rng.randint(2, 20))


def _digit(rng: Random) -> str:
    return str(rng.randint(2, 9))


def _expression(rng: Random) -> str:
    a, b, c = _integer(rng), _integer(rng), _small(rng)
    operator = rng.choice((" + ", " - ", " * ", " / ", "+", "-", "*", " x ", " plus ", " minus ", " times "))
    sums = (f"{a}{operator}{b}", f"{a}{operator}{c}")
    return rng.choice((*sums, f"({a} + {c}) * {b}", f"{c}^2", f"{c}! / {c}"))


def _equation(rng: Random) -> str:
    a, b, c = _digit(rng), _small(rng), _integer(rng)
    linear = (f"{a}x + {b} = {c}", f"{a}(x - {b}) = {c}", f"x/{a} = {b}", f"{a}x = {c}")
    return rng.choice((*linear, f"x^2 - {b}x + {c} = 0"))


def _function(rng: Random) -> str:
    a, b = _digit(rng), _digit(rng)
    forms = (f"x^{a}", f"{a}x^{b} + x", "sin(x)", f"e^({a}x)", f"ln({a}x)", f"x^{a} sin(x)", f"1/(x + {a})")
    return rng.choice((*forms, f"cos({a}x)", f"sqrt(x + {b})"))


def _polynomial(rng: Random) -> str:
    a, b = _small(rng), _small(rng)
    return rng.choice((f"x^2 + {a}x + {b}", f"({a} + x)({b} - x)", f"x^2 - {a}", f"{a}x^3 - {b}x"))


def _sequence(rng: Random) -> str:
    start, step = rng.randint(1, 9), rng.randint(2, 7)
    times = rng.random() < 0.5
    return ", ".join(str(start * step**i if times else start + step * i) for i in range(4))


def _matrix(rng: Random) -> str:
    return f"[[{_digit(rng)}, {_digit(rng)}], [{_digit(rng)}, {_digit(rng)}]]"


def _percent(rng: Random) -> str:
    return rng.choice((f"{rng.randint(1, 99)}%", f"{rng.randint(2, 90)} percent"))


def _hour(rng: Random) -> str:
    quarter = rng.choice(("00", "15", "30", "45"))
    return rng.choice((f"{rng.randint(6, 21)}:{quarter}", f"{rng.randint(1, 11)} pm"))


def _snippet(rng: Random) -> str:
    names = ("items", "x", "data", "result", "node", "key", "text", "user", "count", "lst", "value", "path")
    verbs = ("parse", "find", "solve", "load", "add", "process", "visit", "handle", "check", "merge")
    a, b = rng.sample(names, 2)
    return rng.choice(_SNIPPETS).format(a=a, b=b, n=_digit(rng), verb=rng.choice(verbs))


def _traceback(rng: Random) -> str:
    error = rng.choice(words()["error"])
    line = rng.randint(2, 300)
    forms = (
        f'Traceback (most recent call last):\n  File "main.py", line {line}\n{error}: {_digit(rng)}',
        f"{error} at app.js:{line}:{_small(rng)}",
        f'Exception in thread "main" {error}\n\tat Main.run(Main.java:{line})',
        f"error: {error} in src/main.rs:{line}",
    )
    return rng.choice(forms)


def _columns(rng: Random) -> list[str]:
    return rng.sample(words()["column"], rng.randint(2, 3))


def _rows(rng: Random, width: int) -> list[list[str]]:
    keys = rng.choice((words()["month"], words()["name"], ("north", "south", "west", "east")))
    return [[key, *(_integer(rng) for _ in range(width - 1))] for key in rng.sample(keys, rng.randint(2, 4))]


def _csv(rng: Random) -> str:
    columns = _columns(rng)
    separator = rng.choice((",", ",", ", ", ";", " | ", "\t"))
    return "\n".join(separator.join(row) for row in (columns, *_rows(rng, len(columns))))


def _records(rng: Random) -> str:
    columns = _columns(rng)
    rows = _rows(rng, len(columns))
    style = rng.choice(("json", "pairs", "csv", "list"))
    if style == "json":
        return str([dict(zip(columns, row, strict=True)) for row in rows]).replace("'", '"')
    if style == "pairs":
        return "\n".join(f"{columns[0]}: {row[0]}, {columns[1]}: {row[1]}" for row in rows)
    return _csv(rng) if style == "csv" else "\n".join(f"- {' '.join(row)}" for row in rows)


def _numbers(rng: Random) -> str:
    return ", ".join(_integer(rng) for _ in range(rng.randint(4, 9)))


def _passage(rng: Random) -> str:
    sentences = rng.sample(_SENTENCES, rng.choice((1, 2, 2, 3, 5, 8)))
    return fill(" ".join(sentences), rng, {}, {})


MAKERS: dict[str, Callable[[Random], str]] = {
    "int": _integer,
    "small": _small,
    "digit": _digit,
    "decimal": lambda rng: f"{rng.randint(0, 99)}.{rng.randint(1, 999)}",
    "percent": _percent,
    "expr": _expression,
    "equation": _equation,
    "function": _function,
    "poly": _polynomial,
    "sequence": _sequence,
    "matrix": _matrix,
    "hour": _hour,
    "year": lambda rng: str(rng.randint(1400, 2023)),
    "snippet": _snippet,
    "traceback": _traceback,
    "csv": _csv,
    "records": _records,
    "numbers": _numbers,
    "passage": _passage,
}
