"""Command lines and config files as people write them: any order, any path, any variable."""

import logging
import os
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

import command_line
from samdetr.engine import load_config, main, parse_arguments, train
from samdetr.engine.config import unread_keys

ROOT = Path(__file__).parents[2]
MINI = ROOT / "configs/mini/sam_detr_smca.py"
TOY = ROOT / "tests/toy_config.py"
UNKNOWN_KEYS = ROOT / "tests/data/inputs/configs/unknown_keys.py"
PATHS = [
    *("a=b", "run,1", "run (1)", "prüfung", "50% {x}", "what?", "[x]", "{x}", "[x", "it's", "a b"),
    *("123", "1e5", "true", "nan", "choice(a,b)", "int(3)", "~/a", "#1", "a;b", "$5", r"C:\a(1)"),
    *("weights.pth?matching_heuristics=True", "https://x.y/z.pth?a=1&b=2", "", " a ", "ends "),
]


@pytest.mark.parametrize("text", PATHS)
def test_a_text_is_taken_as_typed_and_survives_yaml(text, tmp_path):
    overrides = [f"train.output_dir={text}", f"train.init_checkpoint={text}"]
    cfg = load_config(str(MINI), overrides)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    for config in (cfg, load_config(str(tmp_path / "config.yaml"))):
        assert config.train.output_dir == config.train.init_checkpoint == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.output_dir='a b'", "a b"),
        ('train.output_dir="run,1"', "run,1"),
        ("train.init_checkpoint=''", ""),
        ("train.init_checkpoint=null", None),
        ("train.output_dir=out/${train.max_iter}", "out/12"),
        ("dataloader.train.batch_size=1_6", 16),
        ("+train.note=a=b", "a=b"),
        ("+train.note=1,2", "1,2"),
        ("+train.note=12", 12),
        ("model.poison=3", 3),
    ],
)
def test_quotes_null_and_other_types_stay_those_of_the_grammar(override, value):
    key = override.partition("=")[0].lstrip("+")
    assert OmegaConf.select(load_config(str(TOY), [override]), key) == value


def test_options_and_overrides_stand_in_any_order():
    words = ["--config-file", "a=b/c.py", "train.max_iter=2", "--data", "train.x=1", "own=a=b"]
    words += ["--resume", "train.seed=3", "--num-gpus", "2", "x.y=4"]
    args = parse_arguments(words)
    assert (args.config_file, args.data) == ("a=b/c.py", "train.x=1")
    assert args.resume and args.num_gpus == 2 and not args.eval_only
    assert sorted(args.opts) == ["own=a=b", "train.max_iter=2", "train.seed=3", "x.y=4"]


def test_an_option_of_several_values_leaves_the_overrides():
    words = ["train.seed=3", "+model={x: 1}", "own.x=[1", "+note=a=b"]
    args = parse_arguments(["--train-json", "train.x=1", "a=b.json", *words, "--resume"])
    assert args.train_json == ["train.x=1", "a=b.json"] and args.resume
    assert args.opts == words


@pytest.mark.parametrize("words", [["train.seed=1", "--nonsense"], ["x=1", "--num-gpus", "two"]])
def test_a_wrong_option_behind_overrides_is_an_error_with_usage(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["--config-file", "c.py", *words])
    assert "usage: " in capsys.readouterr().err


OTHER_VARIABLES = {
    "cfg": "from detectron2.config import get_cfg\ncfg = get_cfg()",
    "copy": "cfg = dict(dataloader=dataloader, train=train)",
    "modules": "import numpy, os\nused = dict(np=numpy, os=os, join=os.path.join)",
    "lists": "files = ['a', 1, None]\nseen = {1, 2}",
    "paths": "import pathlib\nx = pathlib.Path('here')\ntrain.init_checkpoint = x / 'x.pth'",
    "function": "def double(x):\n    return 2 * x\nown = dict(f=double, g=lambda x: x)",
    "referred": "own = dict(at='here/x.pth')\ntrain.init_checkpoint = '${own.at}'",
}


@pytest.mark.parametrize("lines", OTHER_VARIABLES.values(), ids=OTHER_VARIABLES)
def test_a_config_may_have_other_variables(lines, tmp_path, monkeypatch):
    monkeypatch.setenv("MINI_CONFIG", str(MINI))
    source = UNKNOWN_KEYS.read_text().rpartition("train.model_ema")[0]
    (tmp_path / "own.py").write_text(f"{source}note = dict(text='kept')\n{lines}\n")

    cfg = load_config(str(tmp_path / "own.py"))
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))

    saved = load_config(str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    for config in (cfg, saved):
        wanted = "here/x.pth" if "x.pth" in lines else load_config(str(MINI)).train.init_checkpoint
        assert config.train.init_checkpoint == wanted
        assert config.get("note", {"text": "kept"}) == {"text": "kept"}
    assert not unread_keys(cfg)


def test_keys_that_nothing_reads_are_named_with_the_nearest(monkeypatch):
    monkeypatch.setenv("MINI_CONFIG", str(MINI))
    cfg = load_config(str(UNKNOWN_KEYS))
    assert set(unread_keys(cfg)) == {"train.model_ema", "train.grad_accumulation"}
    cfg.train.eval_perod = 3
    cfg.dataloader.num_workers = 4
    cfg.train.clip_grad.max_nrom = 1.0
    found = unread_keys(cfg)
    assert found["train.eval_perod"] == "train.eval_period"
    assert found["train.clip_grad.max_nrom"] == "train.clip_grad.max_norm"
    assert found["dataloader.num_workers"].endswith(".num_workers")
    cfg.train.note, cfg.extra = "${train.eval_perod}", {"x": "${..train.note}"}
    assert "train.eval_perod" not in unread_keys(cfg) and "train.note" not in unread_keys(cfg)


def test_one_warning_before_the_first_step_names_unread_keys(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cfg = load_config(str(TOY), [f"train.output_dir={tmp_path}", "train.max_iter=1"])
    cfg.train.model_ema, cfg.train.amp.level = {"decay": 0.9}, "O1"
    train(cfg)
    texts = [x.getMessage() for x in caplog.records]
    (place,) = [i for i, text in enumerate(texts) if "train.model_ema" in text]
    assert "train.amp.level" in texts[place] and "train.model_ema.decay" not in texts[place]
    assert place < [i for i, text in enumerate(texts) if "Starting training" in text][0]


def toy_arguments(folder, *words):
    return ["--config-file", str(TOY), f"train.output_dir={folder}", "train.max_iter=1", *words]


def test_trainings_of_one_process_write_a_log_each(tmp_path):
    handler = logging.NullHandler()
    logging.getLogger("samdetr").addHandler(handler)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in (*folders, folders[0]):
        main(parse_arguments(toy_arguments(folder)))

    logs = [(x / "log.txt").read_text() for x in folders]
    assert [x.count("Starting training") for x in logs] == [2, 1]
    assert str(folders[1]) not in logs[0] and str(folders[0]) not in logs[1]
    assert not any("\x1b" in x for x in logs)
    assert logging.getLogger("samdetr").handlers == [handler]
    logging.getLogger("samdetr").removeHandler(handler)


@pytest.mark.parametrize("name", ["what?", "50% {x}", "a=b"])
def test_a_run_resumes_from_any_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.train_net(*toy_arguments(f"output/{name}")) == 0
    config = ["--config-file", f"output/{name}/config.yaml", "train.max_iter=2"]
    assert command_line.train_net(*config, "--trusted-config", "--resume") == 0
    log = Path("output", name, "log.txt").read_text()
    assert "Starting training from iteration 1" in log, capsys.readouterr()
    assert os.listdir("output") == [name]
