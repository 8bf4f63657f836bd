"""Tables of proxy tasks: rankings of networks or settings, and memories of class-incremental learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datastill.measure.ledger import Entry
from datastill.report import tables, words

from . import words as cells

TITLES = {
    "nas": "Ranking networks",
    "hyper": "Ranking learning rates and weight decays",
    "continual": "A memory for class-incremental learning",
}


def measured(entries: Sequence[Entry]) -> str:
    """Return what stands between the markers of docs/proxies.md."""
    return "\n\n".join(part for entry in entries for part in section(entry)) or "No row yet."


def section(entry: Entry) -> list[str]:
    """Return a proxy's heading, its verdict, its command and its table."""
    row, run = entry.row, entry.run
    protocol = run["protocol"]
    name = TITLES.get(row["proxy"], row["proxy"])
    source = tables.escaped(run["source"]["name"])
    parts = [f"### {name}: {source} at {row['ipc']} images per class, {tables.code(row['method'])}"]
    parts += [f"**{tables.escaped(sentence)}**" for sentence in row["verdict"][:1]]
    parts += [tables.escaped(" ".join(row["verdict"][1:]))] if row["verdict"][1:] else []
    parts.append(cells.commands(run))
    seeds = words.listed([str(seed) for seed in protocol["seeds"]])
    named = "seeds" if len(protocol["seeds"]) > 1 else "seed"
    parts.append(
        f"Top-1 in percent on the {protocol['split']} split after the last step; {protocol['steps']:,} steps of "
        f"{protocol['batch']:,} items; {named} {seeds}. The row file: [{entry.name}](results/{entry.name})."
    )
    return parts + (_memory(row) if "orders" in row else _ranking(row))


def _ranking(row: Mapping[str, Any]) -> list[str]:
    told = {arm["arm"]: arm["says"] for arm in row["arms"]}
    choices, spent = row["choices"]["arms"], row["time"]["students"]
    lines = []
    for name, scopes in row["agreement"].items():
        chosen = choices.get(name)
        says = f"<br>{tables.escaped(told[name])}" if name in told else "<br>no training at all"
        lines.append([
            f"{tables.code(name)}{says}",
            *(_interval(scopes[scope][measure]) for scope in ("all", "top half") for measure in ("tau", "rho")),
            tables.code(chosen["candidate"]) if chosen else "", f"{chosen['real_top1']:.2f}" if chosen else "",
            words.duration(spent[name]) if name in spent else "",
        ])  # fmt: skip
    best, blind = row["choices"]["best"], row["choices"]["blind"]
    lines.append(["the whole real set itself", "", "", "", "", tables.code(best["candidate"]),
                  f"{best['real_top1']:.2f}", words.duration(spent["whole"])])  # fmt: skip
    lines.append(["a blind choice, on average", "", "", "", "", "", f"{blind['real_top1']:.2f}", ""])
    head = ["ranked by", "Kendall's tau, all", "Spearman's rho, all", "tau, better half", "rho, better half",
            "it would choose", "which reaches, on the whole set", "training"]  # fmt: skip
    made = row["time"]["distillation"]
    time = [f"The distillation itself took {words.duration(made)}, networks included."] if made is not None else []
    note = f"{len(row['rows'])} {row['what']}; intervals are bootstrap, 2.5 to 97.5 %, over these."
    return [tables.escaped(note), tables.markdown_table(head, lines), *time]


def _interval(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "not defined"
    if value["low"] is None:
        return words.minus(f"{value['value']:.2f}")
    return cells.unbroken(words.minus(f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"))


def _memory(row: Mapping[str, Any]) -> list[str]:
    parts = []
    for column in dict.fromkeys([row["rows"][0]["column"], *words.COLUMNS]):
        lines = [
            [f"{tables.code(r['arm'])}<br>{tables.escaped(r['says'])}", cells.unbroken(words.top1(r["average"])),
             cells.standing(r["against_random"]),
             *(cells.unbroken(words.top1(after)) for after in r["after"]),
             words.size(r["bytes"]["total"]) if r["bytes"] else "no set"]
            for r in row["rows"] if r["column"] == column
        ]  # fmt: skip
        if lines:
            head = ["memory", "average over groups", "against random, same labels",
                    *(f"{seen} classes" for seen in row["seen"]), "bytes"]  # fmt: skip
            parts += [cells.column_line(column), cells.compact(head, lines)]
    return parts
