from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import msgspec
import pytest

from penstock.core.config import Config
from penstock.core.exceptions import ConfigError, UnknownPipelineError
from penstock.sources.flowerpower import find_project, project_at, project_root, projects_of
from penstock.sources.interpolate import interpolated


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "conf" / "pipelines" / "group").mkdir(parents=True)
    (folder / "pipelines").mkdir()
    (folder / "conf" / "project.yml").write_text("name: my-shop\n")
    (folder / "conf" / "pipelines" / "sales.yml").write_text("run: {final_vars: [total]}\n")
    (folder / "conf" / "pipelines" / "group" / "stock.yml").write_text("run: {}\n")
    (folder / "pipelines" / "sales.py").write_text("")
    (folder / "pipelines" / "only_code.py").write_text("")
    (folder / "pipelines" / "_shared.py").write_text("")
    return folder


def block(root: Path, text: str) -> dict | None:
    (root / "conf" / "project.yml").write_text("name: my-shop\n" + text)
    return project_at(root).job_queue()


# -- finding --------------------------------------------------------------------------------------------------------


def test_a_project_is_found_from_a_folder_below(root):
    assert find_project(root / "conf" / "pipelines").root == root


def test_a_project_has_the_name_in_its_file(root):
    assert find_project(root).name == "my-shop"


def test_a_project_without_a_name_has_its_folders(root):
    (root / "conf" / "project.yml").write_text("adapter: {}\n")
    assert find_project(root).name == "shop"


def test_no_project_is_none(tmp_path):
    assert find_project(tmp_path) is None


def test_a_manager_object_gives_its_folder(root):
    manager = types.SimpleNamespace(_base_dir=str(root))
    assert project_root(types.SimpleNamespace(pipeline_manager=manager)) == root


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_project_object_gives_its_folder(root):
    fp = pytest.importorskip("flowerpower.flowerpower")
    assert project_root(fp.FlowerPowerProject.load(str(root))) == root


def test_a_folder_without_a_project_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no conf/project.yml"):
        project_root(tmp_path)


def test_a_project_elsewhere_is_told():
    with pytest.raises(ConfigError, match=r"not on this machine"):
        project_root("s3://bucket/project")


def test_an_object_of_another_kind_is_told():
    with pytest.raises(ConfigError, match=r"int is no FlowerPower project"):
        project_root(3)


def test_a_folder_without_project_file_is_a_folder_of_hamilton_modules(tmp_path):
    (tmp_path / "weather.py").write_text("")
    project = project_at(tmp_path)
    assert (project.kind, project.pipelines()) == ("hamilton", ["weather"])


def test_projects_are_known_by_name(root):
    assert list(projects_of(Config(projects=("shop",)), root.parent)) == ["my-shop"]


def test_the_project_around_is_known_without_configuration(root):
    assert list(projects_of(Config(), root / "conf")) == ["my-shop"]


def test_two_projects_of_one_name_are_refused(root, tmp_path):
    other = tmp_path / "other" / "conf"
    other.mkdir(parents=True)
    (other / "project.yml").write_text("name: my-shop\n")
    with pytest.raises(ConfigError, match=r"two projects are named 'my-shop'"):
        projects_of(Config(projects=("shop", "other")), tmp_path)


def test_a_folder_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no folder .*gone"):
        projects_of(Config(projects=("gone",)), tmp_path)


# -- pipelines ------------------------------------------------------------------------------------------------------


def test_pipelines_are_listed_from_their_files(root):
    assert project_at(root).pipelines() == ["group.stock", "only_code", "sales"]


def test_a_pipeline_may_have_a_hyphen(root):
    assert project_at(root).has("only-code")


@pytest.mark.parametrize("name", ["../sales", "/etc/passwd", "sales/../sales", "", "group..stock"])
def test_a_path_is_no_name(root, name):
    assert not project_at(root).has(name)


def test_an_unknown_pipeline_lists_those_that_exist(root):
    with pytest.raises(UnknownPipelineError, match=r"group\.stock, only_code, sales\. Did you mean 'sales'"):
        project_at(root).check("salse")


# -- retry ----------------------------------------------------------------------------------------------------------


def retry(root: Path, run: str):
    (root / "conf" / "pipelines" / "sales.yml").write_text(f"run: {run}\n")
    return project_at(root).retry_of("sales")


def test_no_retry_is_none(root):
    assert retry(root, "{final_vars: [total]}") is None


def test_retries_are_attempts_less_one(root):
    assert retry(root, "{retry: {max_retries: 2}}").max_attempts == 3


def test_the_old_flat_fields_count_too(root):
    assert retry(root, "{max_retries: 1, retry: {retry_delay: 5}}").max_attempts == 2


def test_a_wrong_retry_names_its_file(root):
    with pytest.raises(ConfigError, match=r"sales\.yml: run\.retry.*max_retries"):
        retry(root, "{retry: {max_retries: many}}")


# -- job_queue ------------------------------------------------------------------------------------------------------


def test_no_block_is_none(root):
    assert block(root, "") is None


def test_a_block_has_the_shape_of_the_config(root):
    found = block(
        root,
        "job_queue:\n  backend: saq+redis://localhost/0\n  ledger: sqlite:///l.db\n"
        "  job_defaults: {timeout: 5m, max_retries: 2, retry_delay: 30, result_ttl: 1d, failure_ttl: 7d}\n"
        "  worker: {queues: [etl], concurrency: 2}\n",
    )
    config = msgspec.convert(found, Config)
    assert (config.backend, config.ledger) == ("saq+redis://localhost/0", "sqlite:///l.db")
    assert (config.defaults.timeout, config.defaults.max_attempts, config.defaults.backoff) == ("5m", 3, "30s..600s")
    assert (config.history.keep_succeeded, config.history.keep_failed) == (86_400, 604_800)
    assert (config.worker.queues, config.worker.concurrency) == (("etl",), 2)


def test_max_attempts_wins_over_max_retries(root):
    assert block(root, "job_queue: {job_defaults: {max_attempts: 7, max_retries: 2}}")["defaults"]["max_attempts"] == 7


def test_an_unknown_key_names_its_line_and_the_nearest(root):
    text = "job_queue:\n  backend: inline://\n  job_defaults:\n    timeout: 5m\n    max_retires: 3\n"
    with pytest.raises(ConfigError, match=r"project\.yml:6: unknown key 'max_retires'.*Did you mean 'max_retries'"):
        block(root, text)


def test_a_negative_ttl_is_refused(root):
    with pytest.raises(ConfigError, match=r"result_ttl is -1"):
        block(root, "job_queue: {job_defaults: {result_ttl: -1}}")


def test_queue_yml_wins_over_the_block(root):
    (root / "conf" / "queue.yml").write_text("backend: inline://\n")
    assert block(root, "job_queue: {backend: 'huey+sqlite:///q.db'}") == {"backend": "inline://"}


def test_the_old_spelling_becomes_a_url(root):
    found = block(
        root,
        "job_queue:\n  type: rq\n  num_workers: 4\n  backend: {type: redis, host: h, port: 6380, database: 2, "
        "username: u, password: 'p@ss', ssl: true, queues: [default, high]}\n",
    )
    assert found == {
        "backend": "rq+rediss://u:p%40ss@h:6380/2",
        "worker": {"queues": ["default", "high"], "concurrency": 4},
    }


def test_the_old_spelling_is_told_of_without_its_password(root, caplog):
    with caplog.at_level(logging.WARNING, "penstock.config"):
        block(root, "job_queue: {type: rq, backend: {password: s3cret}}")
        project_at(root).job_queue()
    assert [("s3cret" in r.getMessage(), "before 0.21" in r.getMessage()) for r in caplog.records] == [(False, True)]


def test_an_old_engine_that_is_gone_is_refused(root):
    with pytest.raises(ConfigError, match=r"type: apscheduler is not carried over"):
        block(root, "job_queue: {type: apscheduler}")


def test_variables_of_the_environment_are_filled_in(root, monkeypatch):
    monkeypatch.delenv("SHOP_TIMEOUT", raising=False)
    monkeypatch.setenv("SHOP_LEDGER", "sqlite:///from-env.db")
    found = block(root, "job_queue:\n  ledger: ${SHOP_LEDGER}\n  job_defaults: {max_retries: '${SHOP_TIMEOUT:-4}'}\n")
    assert found == {"ledger": "sqlite:///from-env.db", "defaults": {"max_attempts": 5}}


def test_broken_yaml_names_its_file(root):
    with pytest.raises(ConfigError, match=r"cannot read .*project\.yml"):
        block(root, "job_queue: [\n")


def test_missing_pyyaml_tells_the_pip_line(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r'pip install "penstock\[flowerpower\]"'):
        project_at(root)


# -- variables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["${A}", "x-${A}-y", "$A", "${A:-d}", "${A-d}", "${E:-d}", "${E-d}", "${NOT:-d}", "${NOT-d}", "${NOT}", "$$A",
     "${NUMBER}", "${JSON}", "${NOT:-[1, 2]}", "plain", "${NOT:-}"],
)  # fmt: skip
def test_variables_are_filled_in_as_flowerpower_does(text, monkeypatch):
    theirs = pytest.importorskip("flowerpower.utils.yaml_env")
    for name, value in {"A": "a", "E": "", "NUMBER": "3", "JSON": '{"k": true}'}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOT", raising=False)
    assert interpolated({"k": [text]}) == theirs.interpolate_env_in_data({"k": [text]})


def test_a_required_variable_that_is_missing_is_told(monkeypatch):
    monkeypatch.delenv("NOT", raising=False)
    with pytest.raises(ValueError, match=r"set NOT first"):
        interpolated("${NOT:?set NOT first}")
