"""`python -m benchmarks.serve`: serving beside the first recipe's `chat()`, in one run, on the CPU.

Two workloads, never mixed. *engine*: the same short prompt for every chat, at most 48 new tokens;
an engine may stop early, so rates count the tokens really made. *turn*: a message through the
whole bot with its store, behind system prompt, lore, exemplars and five exchanges of history; no
two chats share a message or a history, so a cache of prefixes saves the system prompt at the most.
Every engine and workload has a process of its own, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.chats import EngineWorkload, Figures, Metered, TurnWorkload, Workload, measure
from benchmarks.machine import machine, peak_bytes
from bot import app, config
from bot.bot import Bot
from bot.check import MISTAKES
from bot.progress import StartProgress
from data.config import environment
from data.store import Store
from data.triples import read_dialogues
from persona import guard
from persona.config import PROFILES
from persona.engines.base import Delta, EngineStats, Finish, Sampling, without_engine
from persona.prompt import Budget, PromptBuilder
from persona.serving import shipped
from persona.tokenizer import ChatTokenizer

ENGINES = ("seed", "transformers", "openvino")
WORKLOADS = ("engine", "turn")
SYSTEM = "你是林黛玉，贾宝玉的表妹。"
MESSAGE = "细说园子的一年四季。"
NEW_TOKENS = 48
PATIENCE = {"deadline": 1800.0, "queue": 4096}
"""In place of [model]'s own: a slow engine is measured, not cut off. Seconds; turns."""
PACKAGES = ("openvino-genai", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Result:
    """A row. `peak_gb` is the most memory (RSS, 10^9 bytes) up to then, loading too.

    It is that of this engine's and workload's own process, and of the engine's child if it has one.
    """

    engine: str
    workload: str
    figures: Figures
    peak_gb: float


class SeedEngine:
    """The baseline, the first recipe's `chat()`: transformers' generate in fp32, a reply at a time.

    It returns a reply when all of it is there: its first token comes with its last.
    """

    async def load(self, base: Path, adapter: Path | None = None) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise without_engine("transformers", "bench") from error
        disable_progress_bar()
        self._torch: Any = torch
        self._tokenizer = ChatTokenizer.load(base / "tokenizer.json")
        self._stops = [self._tokenizer.im_end, self._tokenizer.end_of_text]
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        self._model = model.eval()

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> AsyncGenerator[Delta]:
        made = await asyncio.to_thread(self._chat, list(token_ids), sampling)
        text = self._tokenizer.full.decode(made, skip_special_tokens=True)
        yield Delta(text, len(made), Finish.STOP if made[-1] in self._stops else Finish.LENGTH)

    def _chat(self, token_ids: list[int], sampling: Sampling) -> list[int]:
        ids = self._torch.tensor([token_ids])
        with self._torch.no_grad():
            out = self._model.generate(
                ids,
                attention_mask=self._torch.ones_like(ids),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                repetition_penalty=sampling.repetition_penalty,
                eos_token_id=self._stops,
                pad_token_id=self._tokenizer.end_of_text,
            )
        return [int(i) for i in out[0, len(token_ids) :]]

    def stats(self) -> EngineStats:
        return EngineStats("seed", "cpu")

    async def close(self) -> None:
        return None


def settings_of(engine: str, folder: Path) -> config.Settings:
    """config.toml and environment, but the embedded model on the CPU and a database in `folder`."""
    settings = config.read(Path("config.toml"), environment())
    changed: dict[str, object] = {"base": "embedded", "device": "cpu", "engine": engine, **PATIENCE}
    if engine == "seed":
        changed |= {"engine": "transformers", "sampling": "seed"}
    url = f"sqlite+aiosqlite:///{folder / 'bench.db'}"
    return replace(
        settings,
        model=settings.model.model_copy(update=changed),
        store=settings.store.model_copy(update={"url": url}),
    )


async def load(name: str, settings: config.Settings) -> app.Loaded:
    """The engine of that name, ready; the model is fetched if it is absent."""
    served = shipped(settings.model, settings.persona)
    with StartProgress("en") as report:
        if name != "seed":
            return await app.load(settings, served, report)
        weights = app.weights(settings, report)
        folder = weights.for_transformers(weights.base(served.base))
        engine = SeedEngine()
        await engine.load(folder, served.adapter)
        tokenizer = ChatTokenizer.load(folder / "tokenizer.json")
        return app.Loaded(served.version, engine, tokenizer)


@asynccontextmanager
async def opened(engine_name: str, workload: str) -> AsyncGenerator[Workload]:
    """The workload on the engine, loaded; closed again at the end."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(engine_name, Path(folder))
        character = app.load_character(settings)
        loaded = await load(engine_name, settings)
        engine = Metered(loaded.engine)
        try:
            if workload == "engine":
                card = character.card.model_copy(
                    update={"system_prompt": SYSTEM, "character_book": None}
                )
                ids = PromptBuilder(loaded.tokenizer, card, Budget()).build(MESSAGE).ids
                sampling = replace(PROFILES["seed"], max_new_tokens=NEW_TOKENS)
                yield EngineWorkload(engine, ids, sampling)
                return
            service = app.make_service(settings, character, replace(loaded, engine=engine))
            rows = [
                row
                for _, row in read_dialogues(settings.persona.dialogues)
                if row.history and guard.before(row.message) is None
            ]
            store = await Store.open(settings.database_url)
            try:
                takeover = app.make_takeover(settings, character, service)
                bot = Bot(settings, store, service, character.card, takeover)
                yield TurnWorkload(bot, store, rows, character.exchanges)
            finally:
                await store.close()
        finally:
            await engine.close()


async def child(engine: str, workload: str, chats: list[int], alone: int) -> None:
    """Measures one engine on one workload; writes its results, one JSON object a line."""
    async with opened(engine, workload) as asked:
        async for figures in measure(asked, chats, alone, serial=engine == "seed"):
            row = asdict(Result(engine, workload, figures, peak_bytes() / 1e9))
            print(json.dumps(row), flush=True)
    if engine == "openvino" and (heavy := {"torch", "transformers"} & sys.modules.keys()):
        raise SystemExit(f"the openvino process imported {', '.join(heavy)}: its memory is off")


def results_of(engine: str, workload: str, options: list[str]) -> list[Result]:
    """Runs `child` in a process and reads what it writes."""
    command = [sys.executable, "-m", "benchmarks.serve", "--child", engine, workload, *options]
    print(f"{workload} workload on {engine} ...", file=sys.stderr)
    results = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"engine"'):  # what libraries print is passed over
                row = json.loads(line)
                results.append(Result(**{**row, "figures": Figures(**row["figures"])}))
    if process.returncode:
        print(f"{engine} ended with code {process.returncode}", file=sys.stderr)
    return results


def show(results: list[Result]) -> None:
    """Prints a table for each workload, in Markdown, and the ratios against the seed's rates.

    A row with failed replies has no ratio: the others had the machine to themselves.
    """
    for workload in WORKLOADS:
        rows = [r for r in results if r.workload == workload]
        if not rows:
            continue
        prompt = sum(r.figures.prompt_tokens for r in rows) / len(rows)
        print(f"\n{workload} workload, {prompt:.0f} tokens of prompt\n")
        print("| engine | chats | tok/s | first token p50 / p95, s | reply p50, s | tokens a reply "
              "| outside the engine | peak GB | failed |")  # fmt: skip
        print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        for row in rows:
            f = row.figures
            told = workload == "turn" and f.outside_percent is not None
            outside = f"{f.outside_percent:.1f} %" if told else ""
            queued = "*" if row.engine == "seed" and f.chats > 1 else ""
            print(f"| {row.engine} | {f.chats}{queued} | {f.tokens_per_second:.1f} "
                  f"| {f.first_p50:.2f} / {f.first_p95:.2f} | {f.reply_p50:.2f} "
                  f"| {f.reply_tokens:.0f} | {outside} | {row.peak_gb:.2f} "
                  f"| {f.failed or ''} |")  # fmt: skip
        whole = [r for r in rows if not r.figures.failed]
        rates = {(r.engine, r.figures.chats): r.figures.tokens_per_second for r in whole}
        for engine in ENGINES[1:]:
            ratios = [
                f"×{rate / rates['seed', chats]:.1f} at {chats}"
                for (name, chats), rate in rates.items()
                if name == engine and rates.get(("seed", chats))
            ]
            if ratios:
                print(f"\n{engine} against the seed's chat(), tok/s: {', '.join(ratios)}")
    print("\n*: the seed's answers one chat at a time and shows a reply when it is whole; its rows")
    print("for more chats are the queue that its lone replies make.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--chats", nargs="+", type=int, metavar="N", help="chats at once")
    parser.add_argument("--quick", action="store_true", help="1 and 4 chats, fewer replies")
    parser.add_argument("--alone", type=int, metavar="N", help="replies that a lone chat is given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there as well")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    alone = options.alone or (2 if options.quick else 8)
    chats = sorted(options.chats or ([1, 4] if options.quick else [1, 4, 16, 32]))
    if options.child:
        try:
            asyncio.run(child(options.child[0], options.child[1], chats, alone))
        except MISTAKES as mistake:
            print(f"daiyu: {mistake}", file=sys.stderr)
            return 1
        return 0
    passed = ["--chats", *map(str, chats), "--alone", str(alone)]
    facts = machine(PACKAGES)
    results = [
        result
        for workload in WORKLOADS
        for engine in options.engines
        for result in results_of(engine, workload, passed)
    ]
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    show(results)
    if options.json:
        rows = [asdict(result) for result in results]
        options.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")
    expected = len(WORKLOADS) * len(options.engines) * len(chats)
    return 0 if len(results) == expected and not any(r.figures.failed for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
