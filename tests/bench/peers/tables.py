"""Rows of compare.py as tables of Markdown."""

OURS = "palimpsest"
OTHERS = ("llama.cpp", "transformers")
# What is to hold against llama.cpp: (what, streams) -> ratio.
AIMS = {("decode", 1): 1.0, ("decode", 4): 1.5, ("decode", 16): 2.5, ("prefill", 1): 1.25}


def table(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def speeds(rows):
    """One line per shape: tokens/s and share of the limit of each, ratio to the others."""
    shapes = {}
    for row in rows:
        if row["what"] in ("decode", "prefill"):
            shapes.setdefault((row["what"], row["streams"], row["context"]), {})[row["who"]] = row
    lines = []
    for (what, streams, context), by_name in shapes.items():
        ours = by_name[OURS]
        cell = {name: f"{row['tokens_per_s']:.1f} ({row['share_of_limit']:.0%})" for name, row in by_name.items()}
        ratio = {name: f"{ours['tokens_per_s'] / by_name[name]['tokens_per_s']:.2f}" for name in OTHERS}
        lines.append([f"{what}, {streams} x {context}", cell[OURS], *(cell[name] for name in OTHERS),
                      f"{ours['limit_tokens_per_s']:.0f}", *ratio.values(), f"{AIMS.get((what, streams), '')}"])
    head = ["tokens/s (share of the limit)", OURS, *OTHERS, "limit", *(f"/ {name}" for name in OTHERS), "aim"]
    return table(head, lines) if lines else ""


def short(value):
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {short(part)}" for key, part in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def others(rows):
    """The rows that have no shape in common: a list each."""
    lines = []
    for row in rows:
        if row["what"] not in ("decode", "prefill"):
            told = ", ".join(f"{key} {short(value)}" for key, value in row.items() if key != "what")
            lines.append(f"- {row['what']}: {told}")
    return "\n".join(lines)


def markdown(rows):
    return "\n\n".join(part for part in (speeds(rows), others(rows)) if part)
