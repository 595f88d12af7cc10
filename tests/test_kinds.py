"""The promises of the texts of benchmarks/kinds.py: made again they are the same, and each document keeps the rules of its kind."""

import runpy
import sys
from pathlib import Path

import mlx_nanogpt as gpt
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
KINDS = runpy.run_path(str(BENCHMARKS / "kinds_texts.py"))["KINDS"]
sys.path.remove(str(BENCHMARKS))
CHECKED = [name for name in KINDS if KINDS[name].check]
HEADERS = ["day,item,quantity,price,total"]  # of a table: a document, too


@pytest.mark.parametrize("name", CHECKED)
def test_a_document_keeps_the_rules_of_its_kind_and_a_spoilt_one_does_not(name):
    kind = KINDS[name]
    texts = [text for text in kind.texts() if text not in HEADERS][::25]
    assert len(texts) > 30 and all(map(kind.check, texts))
    assert not any(kind.check(spoilt) for text in texts for spoilt in ("", "~" + text, text + "~"))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("sums", "12+7=20"),
        ("sorting", "3 1 2 -> 1 3 2"),
        ("dates", "2024-02-28 + 1 = 2024-03-01"),
        ("Morse", "so = ... --."),
        ("brackets", "([ : )]"),
        ("plurals (TSV)", "bora\tboran\tboran"),
        ("orders (CSV)", "2026-01-01,bora,3,4,13"),
        ("noughts and crosses", "1. a1 a1 2. b1 b2 3. c1 1-0"),
        ("noughts and crosses", "1. a1 a2 2. b1 b2 3. c1 0-1"),
        ("noughts and crosses", "1. a1 a2 2. b1 b2 3. c1 c2 1-0"),
        ("genes (DNA)", "ATGTAACCCTAA"),
        ("molecules (SMILES)", "CC(=O"),
        ("molecules (SMILES)", "CCc1ccccc"),
        ("a made-up language", "Bairai gundo ahis."),
    ],
)
def test_a_wrong_answer_is_seen(name, wrong):
    assert not KINDS[name].check(wrong)


@pytest.mark.parametrize("name", ["names", "chats (JSON Lines)", "tunes (ABC)"])
def test_the_text_is_the_same_each_time_and_has_the_documents_that_were_made(name, tmp_path):
    kind = KINDS[name]
    corpora = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        corpora.append(gpt.load_corpus(kind.write(folder), documents=kind.documents))
    assert corpora[0].text == corpora[1].text
    assert sorted(corpora[0].text.strip("\0").split("\0")) == sorted(kind.texts())


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    kinds = runpy.run_path(str(BENCHMARKS / "kinds.py"))
    (log,) = BENCHMARKS.glob("results/*-kinds.jsonl")
    assert kinds["tables"](kinds["read"](log)) in (BENCHMARKS / "kinds.md").read_text(encoding="utf-8")
