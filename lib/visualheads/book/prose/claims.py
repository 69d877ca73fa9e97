"""Text about the claims: what was decided, claim by claim, and which stores it came from."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from visualheads.analysis.claims import CONTRADICTED, NOT_TESTABLE, SUPPORTED, VERDICTS, Finding, Verdict, verdict_table
from visualheads.book.prose.comparison import missing
from visualheads.book.prose.words import agreeing, code, counted, escaped, listed, table
from visualheads.charts import labels
from visualheads.charts.verdicts import numbers
from visualheads.heads.permutation import N_SHUFFLED
from visualheads.studies.evidence import UNTRAINED_TRACE
from visualheads.tasks.prompts import RECTANGLE


def counts(verdicts: pd.DataFrame) -> str:
    """How many claims came out how."""
    kinds = verdicts["verdict"].map(_kind)
    number = {name: int((kinds == name).sum()) for name in VERDICTS}
    parts = [f"{count} {agreeing(count, 'is', 'are')} {name}" for name, count in number.items() if count]
    text = f"Of {counted(len(verdicts), 'claim')}, {listed(parts)}."
    small = int(verdicts["verdict"].str.contains("in miniature").sum())
    if small:
        whole, verb = small == int((kinds != NOT_TESTABLE).sum()), agreeing(small, "is", "are")
        each = "Every verdict is" if whole else f"{small} of the verdicts {verb}"
        text += (
            f" {each} **in miniature**: reached on small models of made-up scenes, and no evidence about large models."
        )
    decided = int(kinds.isin([SUPPORTED, CONTRADICTED]).sum())
    if decided > 1:
        text += (
            f" Each is decided for itself, with a risk of 5 to 10 %; of {decided} that are decided, one may well be "
            "due to chance."
        )
    return text


def each(found: Sequence[Verdict]) -> str:
    """Every claim with its verdict, estimate, interval, control, rule, and what would change it."""
    parts = []
    for one, row in zip(found, verdict_table(found).to_dict("records"), strict=True):
        claim, line = one.claim, f"**{escaped(row['verdict'])}** ({row['source']})"
        line += f": {numbers(row)}." if numbers(row) else f": {escaped(row['reason'])}."
        lines = [
            f"### {claim.number}. {escaped(row['statement'])}",
            "",
            " ".join([line, *beside(claim.number, one.finding)]),
            "",
            f"* What is estimated: {escaped(claim.estimate)}. The interval is {claim.interval}.",
            f"* Control: {escaped(row['control'])}.",
            f"* Rule: {escaped(row['rule'])}.",
            f"* What would change it: {escaped(row['change'])}.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


ALSO: dict[int, tuple[str, ...]] = {
    1: (
        "Models judged: {models:.0f}; language models they were tuned from: {families:.0f}; models with heads above "
        "null on the first half of the pictures: {models_with_heads:.0f}.",
        "The number is that of {where}.",
        "Over white pictures alone the excess of its heads above null, or of the one closest to it where none is, is "
        "{white:.2f} ({white_lower:.2f} to {white_upper:.2f}).",
        "In the language model with the fewest such heads, chance puts as many above all heads of an untrained network "
        "with p = {by_chance:.3f}.",
    ),
    2: (
        "{placed:.0f} of the {heads:.0f} strongest heads (all models together) lie in early and middle layers. The "
        "interval is over pictures alone; heads drawn at random would lie there as {often} with "
        "p = {p_value:.3f} (each language model counted once, by its least favourable model).",
    ),
    3: (
        "Over {llms:.0f} language models, the visual heads' focus in nats and the score correlate with ρ = {rho:.2f}.",
        "The permutation test gives p = {p_value:.3f}.",
    ),
    4: (
        "The number is that of answers {where}. Answer formats asked: {formats:.0f}; the box's pairs are "
        "alike in {box_alike:.0f} of them, the name's different in {name_different:.0f}; the claim is supported in "
        "{supporting:.0f} and contradicted in {contradicting:.0f}.",
        "In free form the box's pairs fall short by {free_box:.3f} ({free_box_lower:.3f} to {free_box_upper:.3f}; "
        "{free_different:.0f} of {free_boxes:.0f} single pairs differ) and the name's by {free_naming:.3f} "
        "({free_naming_lower:.3f} to {free_naming_upper:.3f}); the prompt with the box also says there "
        f"“{RECTANGLE.strip()}”",
        "With letters, where the box alone is added, its pairs fall short by {letters_box:.3f} "
        "({letters_box_lower:.3f} to {letters_box_upper:.3f}; {letters_different:.0f} of {letters_boxes:.0f} single "
        "pairs differ) and the name's by {letters_naming:.3f} ({letters_naming_lower:.3f} to "
        "{letters_naming_upper:.3f}).",
        "The claim is about how much heads look at the picture, not where in it.",
        "By attention on the asked region the box's pairs fall short by {free_region:.3f} ({free_region_lower:.3f} to "
        "{free_region_upper:.3f}) in free form.",
        "With letters, by attention on the asked region, they fall short by {letters_region:.3f} "
        "({letters_region_lower:.3f} to {letters_region_upper:.3f}).",
    ),
    5: (
        "This is {where}, the worst of {cells:.0f} pairs of model and mode, of which {harmful:.0f} lose more than the "
        "margin for certain and {harmless:.0f} certainly less, on {questions:.0f} questions: the fewer they are, the "
        "fewer answers may change before heads can no longer be shown to be harmless.",
        "There, as many random other heads of the same layers lose {random_there:points} points; the late heads lose "
        "{excess:points} points more than they ({excess_lower:points} to {excess_upper:points}).",
        "On average over all pairs the late heads lose {mean:points} points, random ones {random:points}.",
    ),
    6: ("{predictions:.0f} scores were predicted.",),
    7: (
        "Pairs of one language model correlate with {same:.2f}, pairs of others with {other:.2f}; p = {p_value:.3f} "
        "for as much, {p_less:.3f} for as little, and no pattern in so many models could give less than {least_p:.3f}.",
        "Beside it, another tuning seed correlates with {other_seed:.2f}.",
        "A second training of the language model correlates with {second_training:.2f}.",
    ),
    8: (
        "This is in the mode *{where}*, in {models:.0f} models. The correlation itself is {rho:.2f} on average; it "
        "lies beyond what 95 % of unrelated rankings reach in {beyond:.0f} of them. Of the best heads of both, "
        "{shared:points} % are the same, where chance shares {chance:points} %.",
    ),
    9: (
        "{with_dimensions:.0f} of {models:.0f} models have sink dimensions, and these decide; a sink of one head alone "
        "would escape.",
    ),
    10: (
        "The heads' own text-only models correlate with {own:.2f} on average, the hardest controls with {control:.2f} "
        "(models judged: {models:.0f}, of {llms:.0f} language models; other trained language models of their shape: "
        "{others:.0f}). Heads that exchange the two lists give as {much} with p = {p_value:.3f}.",
        "A second training of the language model correlates with {again:.2f}.",
        "It depends on what counts as looking. By region weight in the first generated row the own text-only models "
        "correlate with {region_weight_first_generated:.2f} (hardest controls "
        "{region_weight_first_generated_control:.2f}), by image weight in the last prompt row with "
        "{image_weight_last_prompt:.2f} ({image_weight_last_prompt_control:.2f}), and by image weight in the first "
        "generated row, which chooses the visual heads elsewhere, with {image_weight_first_generated:.2f} "
        "({image_weight_first_generated_control:.2f}).",
    ),
    11: (
        "Within layers: {within:.2f} ({within_lower:.2f} to {within_upper:.2f}). Heads that change places correlate as "
        "{much} with p = {p_value:.4f}; heads that change places within their layer with {within_p:.4f} ("
        f"{N_SHUFFLED} shufflings can give {1 / (N_SHUFFLED + 1):.4f} at least).",
    ),
    12: (
        "Image tokens here: {tokens_one:.0f} with the one recipe, {tokens_other:.0f} with the other, on average over "
        "pairs of models ({pairs:.0f}); the claim speaks of more than 2 000.",
        "Over all items of these benchmarks, by the models' training records, the change is {whole:points} points: "
        "{inside} the interval, and of the {sign} sign.",
    ),
    14: (
        "The number is that of answers {where}: {alike:.0f} of its {pairs:.0f} pairs of benchmarks within a "
        "model are alike.",
        "In the other format it is {most:.3f}.",
        "A benchmark asked in both formats falls short by {format:.3f} ({format_lower:.3f} to {format_upper:.3f}) "
        "between them: so much the answer format alone makes.",
    ),
}  # fmt: skip
"""What is told beside the estimate, claim by claim: a sentence is left out where a number in it is not known."""


def beside(number: int, found: Finding) -> list[str]:
    """The sentences of ALSO whose numbers are all known."""
    more = found.estimate >= 0
    known: dict[str, object] = {name: float(value) for name, value in found.also.items() if np.isfinite(value)}
    known |= {"often": "often" if more else "seldom", "much": "much" if more else "little"}
    known |= {"where": _where(found.where)} if found.where else {}
    if "whole" in known:
        whole = float(found.also["whole"])
        known["inside"] = "inside" if found.lower <= whole <= found.upper else "outside"
        known["sign"] = "same" if whole * found.estimate >= 0 else "other"
    return [
        _InPoints().format(sentence, **known)
        for sentence in ALSO.get(number, ())
        if {field for _, field, _, _ in Formatter().parse(sentence) if field} <= set(known)
    ]


def _where(told: str) -> str:
    """Where a number is from, in words: an answer format, a mode with its positions, or a model with one of them."""
    model, bracket, rest = told.partition(" (")
    if bracket:
        return f"{code(model)} ({escaped(labels.mode(rest.removesuffix(')')))})"
    return labels.ANSWER_FORMATS.get(told) or escaped(labels.mode(told))


class _InPoints(Formatter):
    """Formats as usual, and `{share:points}` as percentage points."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return f"{100 * value:z.1f}" if format_spec == "points" else super().format_field(value, format_spec)


def sources(found: pd.DataFrame) -> str:
    """The stores that were read, as a table, and those that were not used with the reason."""
    if found.empty:
        return missing("there are no stores of results, so no claim can be judged", False)
    lines = [
        (code(row["store"]), row["what"], row["samples"], "yes" if row["used"] else f"no ({escaped(row['why'])})")
        for row in found.to_dict("records")
    ]
    text = table(("store", "what it holds", "samples", "used for verdicts"), lines)
    if not found["what"].eq(UNTRAINED_TRACE).any():
        text += "\n\nNo untrained network was traced: claim 1 is judged against white pictures alone."
    swept = found[found["what"].str.startswith("sweep")]
    if swept.empty:
        text += "\n\n" + missing(
            "no heads were removed in any model yet, so claims about what heads do (5 and 8) have no evidence", False
        )
    elif not swept["used"].any():
        text += "\n\n" + missing(
            "only the reduced protocol was run; claims 5 and 8 wait for full sweeps (<code>make book FULL=1</code>)",
            False,
        )
    return text


def _kind(verdict: str) -> str:
    return next(name for name in VERDICTS if verdict.startswith(name)) if verdict else NOT_TESTABLE
