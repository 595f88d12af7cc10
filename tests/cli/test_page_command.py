"""The promises of `mlx-gpt page`: one file with the runs that are named, and a sentence where there can be none."""

import json
import re
import webbrowser
from pathlib import Path

import mlx_nanogpt as gpt
from conftest import DATA, TINY, tiny_run, trained_run
from helpers import is_a_sentence
from mlx_nanogpt.pages import page


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', Path(page).read_text()).group(1))


def test_it_writes_the_newest_run_and_says_what_to_do(mlx_gpt, run):
    result = mlx_gpt("page")
    assert result.status == 0 and re.match(r"Written: model\.html \(0\.\d MB\)\. Open it in a browser", result.out)
    data = data_of("model.html")
    whole_lines = DATA.tokenizer.decode(DATA.valid_tokens[:300]).split("\n")[1:-1]
    assert data["text"].split("\n") == whole_lines and len(whole_lines) > 3
    assert [(stop["run"], stop["title"], stop["about"]) for stop in data["stops"]] == [
        ("runs/1", "after 8 of 8 steps, its best weights", "A GPT that learned from play.txt")
    ]


def test_it_writes_several_runs_of_several_shapes_and_opens_them(mlx_gpt, run, monkeypatch):
    trained_run(n_layer=2)
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert mlx_gpt("page", "1", "runs/2", "--last", "--out=both.html", "--open").status == 0
    data = data_of("both.html")
    assert [(stop["run"], stop["title"], stop["config"]["n_layer"]) for stop in data["stops"]] == [
        ("runs/1", "after 8 of 8 steps, its last weights", 1),
        ("runs/2", "after 8 of 8 steps, its last weights", 2),
    ]
    assert len(data["tokenizers"]) == 1 and opened == [Path("both.html").resolve().as_uri()]


def test_the_snapshots_of_a_run_are_stops_before_its_weights_as_far_as_there_is_room(mlx_gpt, monkeypatch):
    run = trained_run(snapshots=4)
    assert run.snapshots() == [0, 2, 4, 8]
    last = "after 8 of 8 steps, its best weights"  # the last snapshot has the same
    for room, kept in (
        (4, ["untrained", "after 2 of 8 steps", "after 4 of 8 steps"]),
        (3, ["untrained", "after 4 of 8 steps"]),
        (2, ["untrained"]),
        (1, []),
    ):
        monkeypatch.setattr(page, "MOST_PARAMETERS", room * run.load_model().num_parameters())
        result = mlx_gpt("page", "--force")
        assert [stop["title"] for stop in data_of("model.html")["stops"]] == [*kept, last]
        assert (f"It has no room for {3 - len(kept)} of the snapshots." in result.out) == (room < 4)


def test_a_run_is_named_also_in_its_own_folder(mlx_gpt, run, monkeypatch):
    monkeypatch.chdir("runs/1")
    assert mlx_gpt("page", ".").status == 0 and data_of("model.html")["stops"][0]["run"] == "runs/1"


def test_the_folders_of_a_text_are_ones_own(mlx_gpt, halves):
    assert mlx_gpt("train", *TINY[:-1], "--backend=eager", f"--data={Path('halves').resolve()}").status == 0
    assert mlx_gpt("page").status == 0
    assert (
        "that learned from halves" in Path("model.html").read_text()
        and str(Path.cwd()) not in Path("model.html").read_text()
    )


def test_a_run_of_documents_begins_with_one(mlx_gpt):
    Path("names.txt").write_text("".join(f"{a}nn{b}\n" for a in "ABCDEFGH" for b in "aey"))
    assert mlx_gpt("train", *TINY[:-1], "--backend=eager", "--data=names.txt", "--documents=lines").status == 0
    assert mlx_gpt("page").status == 0 and re.fullmatch(r"[A-H]nn[aey]", data_of("model.html")["text"])


def test_a_run_whose_text_is_gone_has_a_page_without_a_text(mlx_gpt, run):
    Path("play.txt").unlink()
    result = mlx_gpt("page")
    assert result.status == 0 and data_of("model.html")["text"] == "" and "begins without a text" in result.out


def test_a_run_without_weights_or_of_a_model_of_ones_own_is_refused(mlx_gpt):
    class OwnGPT(gpt.GPT):
        pass

    run = tiny_run()
    result = mlx_gpt("page")
    assert is_a_sentence(result) or is_a_sentence(mlx_gpt("page", "1"))
    assert list(gpt.train(run, DATA, model=OwnGPT(run.gpt_config)))
    result = mlx_gpt("page", "1")
    assert is_a_sentence(result) and "OwnGPT" in result.err and not Path("model.html").exists()
