"""What the daemons' metrics are, read from where they are declared in the C++ sources.

A declaration is AddCounter, AddGauge or AddHistogram with its name, help and labels written out, or a call of a helper
of the same file that passes name and help on. Anything else is an error that names the place: a declaration that is not
understood must not vanish from the page.
"""
import dataclasses
import pathlib
import re

PREFIX = "palimpsest_"
EVERY = "every daemon"
KINDS = {"AddCounter": "counter", "AddGauge": "gauge", "AddHistogram": "histogram"}
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<char>\'(?:[^\'\\\n]|\\.)+\')'
                   r'|(?P<number>\b\d[\w.\']*)|(?P<word>[A-Za-z_]\w*)|(?P<mark>::|[^\s\w])', re.DOTALL)
DECLARES = ["const", "MetricSpec", "&"]  # how the parameter of AddGauge itself begins


class Unreadable(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Family:
    role: str  # a daemon, or EVERY
    name: str  # with the prefix
    type: str
    help: str
    labels: tuple = ()
    buckets: tuple = ()  # upper bounds of a histogram, without +Inf


class Source:
    """The tokens of one file."""

    def __init__(self, path, text):
        self.path = path
        self.tokens, self.lines = [], []
        for match in TOKEN.finditer(text):
            if match.lastgroup:
                self.tokens.append(match.group())
                self.lines.append(text.count("\n", 0, match.start()) + 1)

    def fail(self, at, why):
        raise Unreadable(f"{self.path}:{self.lines[at]}: {why}")

    def partner(self, at, step):
        """Where the bracket at `at` has its partner, forwards (step 1) or backwards (-1)."""
        depth, end = 0, at
        while 0 <= end < len(self.tokens):
            depth += (self.tokens[end] in "({[") - (self.tokens[end] in ")}]")
            if depth == 0:
                return end
            end += step
        self.fail(at, "a bracket has no partner")

    def arguments(self, opening):
        return split(self.tokens[opening + 1:self.partner(opening, 1)])

    def helper(self, at):
        """(place of its name, names of its parameters) of the function whose body the token at `at` stands in."""
        ends = [i for i in range(at) if self.tokens[i:i + 2] == [")", "{"]]
        if not ends:
            self.fail(at, "the metric's name is not written out")
        opening = self.partner(ends[-1], -1)
        return opening - 1, [argument[-1] for argument in self.arguments(opening)]


def split(tokens):
    """Cut at the commas that stand in no bracket."""
    depth, found = 0, [[]]
    for token in tokens:
        depth += (token in "({[") - (token in ")}]")
        if token == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return [part for part in found if part]


def literal(tokens):
    """The text of adjacent string literals; None if there is anything else."""
    if not tokens or any(not token.startswith('"') for token in tokens):
        return None
    return "".join(token[1:-1].replace('\\"', '"') for token in tokens)


def braced(tokens):
    """The elements of a braced list; None if it is something else."""
    return split(tokens[1:-1]) if tokens[:1] == ["{"] and tokens[-1:] == ["}"] else None


def latency_buckets(root):
    text = (root / "common/telemetry/metrics.cc").read_text()
    found = re.search(r"LatencyBuckets\(\) \{\s*return \{([^}]*)\};", text)
    if not found:
        raise Unreadable("common/telemetry/metrics.cc: LatencyBuckets() returns no list of numbers")
    return tuple(float(number) for number in found.group(1).split(","))


def role_of(path):
    parts = path.split("/")
    if parts[0] == "common":
        return EVERY
    if parts[:3] == ["services", "inference", "router"]:
        return "router"  # the same binary, another daemon
    if parts[0] == "services":
        return parts[1]
    raise Unreadable(f"{path}: a metric is declared outside of common/ and services/")


def read_labels(source, at, elements):
    if len(elements) < 3:
        return ()
    labels = tuple(literal(label) for label in braced(elements[2]) or [None])
    if None in labels:
        source.fail(at, "the labels are not written out")
    return labels


def read_buckets(source, at, kind, arguments, latency):
    if kind != "histogram":
        return ()
    if len(arguments) == 2 and arguments[1] == ["LatencyBuckets", "(", ")"]:
        return latency
    numbers = braced(arguments[1]) if len(arguments) == 2 else None
    if not numbers or any(len(number) != 1 for number in numbers):
        source.fail(at, "the buckets are neither LatencyBuckets() nor written out")
    return tuple(float(number[0]) for number in numbers)


def names_and_helps(source, at, elements):
    """The name and the help of a declaration: its own, or those of each call of the helper it stands in."""
    if len(elements) < 2:
        source.fail(at, "a declaration needs a name and a help")
    name, text = literal(elements[0]), literal(elements[1])
    if name is not None and text is not None:
        return [(name, text)]
    place, parameters = source.helper(at)
    wanted = [element[0] for element in elements[:2]]
    if any(len(element) != 1 or element[0] not in parameters for element in elements[:2]):
        source.fail(at, "name and help are neither written out nor parameters of the function around")
    found = []
    for call in range(len(source.tokens) - 1):
        if call == place or source.tokens[call:call + 2] != [source.tokens[place], "("]:
            continue
        arguments = source.arguments(call + 1)
        if len(arguments) != len(parameters):
            source.fail(call, f"{source.tokens[place]} is called with {len(arguments)} arguments")
        pair = tuple(literal(arguments[parameters.index(parameter)]) for parameter in wanted)
        if None in pair:
            source.fail(call, f"{source.tokens[place]} is called with a name that is not written out")
        found.append(pair)
    return found


def read_source(path, text, latency):
    source, found = Source(path, text), []
    for at, token in enumerate(source.tokens[:-1]):
        if token not in KINDS or source.tokens[at + 1] != "(":
            continue
        arguments = source.arguments(at + 1)
        if arguments and arguments[0][:3] == DECLARES:
            continue
        elements = braced(arguments[0]) if arguments else None
        if elements is None:
            source.fail(at, f"{token} is given something else than {{name, help, ..}}")
        kind = KINDS[token]
        for name, text_of_help in names_and_helps(source, at, elements):
            found.append(Family(role_of(path), PREFIX + name, kind, text_of_help, read_labels(source, at, elements),
                                read_buckets(source, at, kind, arguments, latency)))
    return found


def read(root):
    """All families, each once a role, in the order of the sources. Unreadable names the place that is not understood."""
    root = pathlib.Path(root)
    latency, found = latency_buckets(root), {}
    paths = [path for top in ("common", "services", "tools") for path in sorted((root / top).rglob("*"))
             if path.suffix in (".h", ".cc", ".cu", ".cuh")]
    for path in paths:
        text = path.read_text()
        if not any(word + "(" in text for word in KINDS):
            continue
        for family in read_source(path.relative_to(root).as_posix(), text, latency):
            other = found.setdefault((family.role, family.name), family)
            if other != family:
                raise Unreadable(f"{path.relative_to(root)}: {family.name} is declared twice with different words")
    return list(found.values())
