from __future__ import annotations

import subprocess
import sys
import types
from datetime import date
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from penstock.core.config import Config
from penstock.core.exceptions import InvalidJobError, PayloadError, UnknownPipelineError
from penstock.job.models import NodeRun, Progress, Ref, RetryPolicy
from penstock.payload import encode_spec
from penstock.runners.inputs import check_graph, restored, unveiled
from penstock.runners.nodes import NodeWatch
from penstock.runners.pipeline import (
    AdapterRef,
    CacheSpec,
    FlowerPowerTarget,
    HamiltonTarget,
    InvalidPipelineError,
    PipelineRunSpec,
    pipeline_call,
)
from penstock.runners.retries import retries_of

REF = Ref(uri="file:///x", format="parquet", size_bytes=1, sha256="0" * 64, kind="pandas.DataFrame")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A FlowerPower project with one pipeline, beside a folder of Hamilton modules."""
    root = tmp_path / "shop"
    (root / "conf" / "pipelines").mkdir(parents=True)
    (root / "pipelines").mkdir()
    (root / "conf" / "project.yml").write_text("name: shop\n")
    (root / "conf" / "pipelines" / "sales.yml").write_text(
        "run: {final_vars: [total], retry: {max_retries: 4, retry_delay: 2.0, jitter_factor: 0.5}}\n"
    )
    (root / "pipelines" / "sales.py").write_text("def total(x: int) -> int:\n    return x\n")
    (root / "pipelines" / "bare.py").write_text("def total(x: int) -> int:\n    return x\n")
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "weather.py").write_text("def rain(x: int) -> int:\n    return x\n")
    return tmp_path


def call(root: Path, *args, **kwargs):
    return pipeline_call(Config(projects=("shop", "nodes")), root, *args, **kwargs)


def wire(root: Path, *args, **kwargs) -> dict:
    return msgspec.json.decode(encode_spec(call(root, *args, **kwargs).spec))


def run_config(**given):
    return pytest.importorskip("flowerpower.cfg.pipeline.run").RunConfig(**given)


# -- what travels -------------------------------------------------------------------------------------------------


def test_only_given_fields_travel(shop):
    assert wire(shop, "sales", inputs={"x": 1}) == {
        "target": {"type": "flowerpower", "pipeline": "sales", "project": "shop"},
        "inputs": {"x": 1},
    }


def test_a_keyword_that_is_none_was_not_given(shop):
    assert wire(shop, "sales", inputs=None, final_vars=None) == wire(shop, "sales")


def test_the_spec_comes_back_as_it_was(shop):
    spec = call(shop, "sales", inputs={"a": [1]}, cache={"recompute": ["raw"]}, executor_cfg="threadpool").spec
    assert msgspec.json.decode(encode_spec(spec), type=PipelineRunSpec) == msgspec.structs.replace(spec)


def test_a_field_that_was_not_given_is_unset_when_it_comes_back(shop):
    spec = msgspec.json.decode(encode_spec(call(shop, "sales").spec), type=PipelineRunSpec)
    assert spec.final_vars is msgspec.UNSET


def test_both_spellings_of_the_executor_are_one(shop):
    assert wire(shop, "sales", executor={"type": "ray"}) == wire(shop, "sales", executor_cfg="ray")


def test_a_ref_travels_beside_the_plain_inputs(shop):
    spec = call(shop, "sales", inputs={"x": 1, "table": REF}).spec
    assert (spec.inputs, spec.refs) == ({"x": 1}, {"table": REF})


def test_job_options_are_told_from_run_fields(shop):
    made = call(shop, "sales", inputs={"x": 1}, delay="10m", timeout="5m", tags=["nightly"])
    assert (made.options.delay_s, made.options.timeout_s, made.options.tags) == (600, 300, ("nightly",))


def test_true_as_cache_means_the_attempts_of_this_job(shop):
    assert call(shop, "sales", cache=True).spec.cache == CacheSpec(scope="job")


def test_an_adapter_travels_by_its_name(shop):
    assert call(shop, "sales", adapters=["lineage"]).spec.adapters == (AdapterRef("lineage"),)


def test_nothing_of_the_frameworks_is_imported_to_submit(shop):
    program = (
        "import sys, datetime\nfrom pathlib import Path\n"
        "from penstock.core.config import Config\nfrom penstock.runners.pipeline import pipeline_call\n"
        "from penstock.payload import encode_spec\n"
        "call = pipeline_call(Config(projects=('shop',)), Path(sys.argv[1]), 'sales', inputs={'x': 1})\n"
        "encode_spec(call.spec)\n"
        "print(*sorted({'hamilton', 'flowerpower', 'pandas', 'polars', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(shop)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- what is refused ------------------------------------------------------------------------------------------------


def test_empty_final_vars_are_refused(shop):
    with pytest.raises(InvalidJobError, match=r"final_vars is empty"):
        call(shop, "sales", final_vars=[])


def test_one_text_is_no_list_of_final_vars(shop):
    with pytest.raises(InvalidJobError, match=r"write a list"):
        call(shop, "sales", final_vars="total")


def test_an_unknown_field_is_refused_with_the_nearest_known(shop):
    with pytest.raises(InvalidJobError, match=r"'inptus'.*Did you mean 'inputs'"):
        call(shop, "sales", inptus={})


def test_a_data_frame_as_input_names_its_path(shop):
    frame = pytest.importorskip("pandas").DataFrame({"a": [1]})
    with pytest.raises(PayloadError, match=r"inputs\.orders is a pandas DataFrame: store it first"):
        call(shop, "sales", inputs={"orders": frame})


def test_a_callable_as_input_names_its_path(shop):
    with pytest.raises(PayloadError, match=r"inputs\.load\.by is a function"):
        call(shop, "sales", inputs={"load": {"by": lambda: None}})


def test_an_adapter_instance_is_refused(shop):
    with pytest.raises(PayloadError, match=r"adapter\.tracker is an adapter instance"):
        call(shop, "sales", adapter={"tracker": object()})


@pytest.mark.parametrize("field", ["on_success", "on_failure"])
def test_a_callback_is_refused(shop, field):
    with pytest.raises(PayloadError, match=f"{field} is a builtin|{field} is a function"):
        call(shop, "sales", **{field: print})


def test_a_module_object_is_refused_by_its_name(shop):
    with pytest.raises(PayloadError, match=r"additional_modules\[0\] is a module; pass its name, 'setup'"):
        call(shop, "sales", additional_modules=[types.ModuleType("setup")])


def test_an_unknown_executor_is_refused(shop):
    with pytest.raises(InvalidJobError, match=r"executor.type is 'treadpool'.*Did you mean 'threadpool'"):
        call(shop, "sales", executor_cfg="treadpool")


@pytest.mark.parametrize("given", [{"async_driver": True}, {"overrides": {"x": 1}}])
def test_what_flowerpower_cannot_do_is_refused(shop, given):
    with pytest.raises(InvalidJobError, match=r"FlowerPower"):
        call(shop, "sales", **given)


def test_a_secret_is_refused_by_value(shop):
    with pytest.raises(PayloadError, match=r"project_adapter_cfg\.hamilton_tracker\.api_key would lie in the ledger"):
        call(shop, "sales", project_adapter_cfg={"hamilton_tracker": {"api_key": "s3cret"}})


def test_a_secret_may_be_named(shop):
    config = {"hamilton_tracker": {"api_key": "env:TRACKER_KEY"}}
    assert call(shop, "sales", project_adapter_cfg=config).spec.project_adapter_cfg == config


def test_a_pipeline_that_does_not_exist_lists_those_that_do(shop):
    with pytest.raises(UnknownPipelineError, match=r"no pipeline named 'sale' .*bare, sales.*Did you mean 'sales'"):
        call(shop, "sale", project="shop")


def test_an_unknown_project_lists_those_that_are_known(shop):
    with pytest.raises(InvalidJobError, match=r"no project named 'shoop'; there are: nodes, shop"):
        call(shop, "sales", project="shoop")


def test_a_path_is_no_pipeline_name(shop):
    with pytest.raises(UnknownPipelineError):
        call(shop, "../../etc/passwd")


# -- Hamilton -------------------------------------------------------------------------------------------------------


def test_a_module_of_a_plain_folder_is_a_hamilton_run(shop):
    assert call(shop, "weather", final_vars=["rain"]).spec.target == HamiltonTarget(("weather",), "nodes")


def test_modules_may_be_named(shop):
    made = call(shop, "rainfall", modules=["weather"], final_vars=["rain"])
    assert (made.name, made.spec.target) == ("rainfall", HamiltonTarget(("weather",), "nodes"))


def test_hamilton_modules_have_no_default_final_vars(shop):
    with pytest.raises(InvalidJobError, match=r"final_vars is missing"):
        call(shop, "weather")


def test_overrides_are_for_hamilton(shop):
    made = call(shop, "weather", final_vars=["rain"], overrides={"x": 1})
    assert made.spec.overrides == {"x": 1}


# -- RunConfig ------------------------------------------------------------------------------------------------------


def test_of_a_run_config_only_what_differs_from_its_defaults_travels(shop):
    assert wire(shop, "sales", run_config(inputs={"x": 1}, final_vars=["total"])) == {
        "target": {"type": "flowerpower", "pipeline": "sales", "project": "shop"},
        "inputs": {"x": 1},
        "final_vars": ["total"],
    }


def test_a_default_that_was_said_in_from_dict_travels(shop):
    given = type(run_config()).from_dict({"log_level": "INFO"})
    assert call(shop, "sales", given).spec.log_level == "INFO"


def test_empty_final_vars_said_in_from_dict_are_refused(shop):
    given = type(run_config()).from_dict({"final_vars": []})
    with pytest.raises(InvalidJobError, match=r"final_vars is empty"):
        call(shop, "sales", given)


def test_clearing_the_projects_inputs_is_refused(shop):
    given = type(run_config()).from_dict({"inputs": None})
    with pytest.raises(InvalidJobError, match=r"run_config\.inputs is None"):
        call(shop, "sales", given)


def test_of_an_executor_only_the_given_part_travels(shop):
    given = type(run_config()).from_dict({"executor": {"type": "synchronous"}})
    assert wire(shop, "sales", given)["executor"] == {"type": "synchronous"}


def test_keywords_win_over_the_run_config(shop):
    assert call(shop, "sales", run_config(inputs={"x": 1}), inputs={"x": 2}).spec.inputs == {"x": 2}


def test_a_run_config_with_a_callback_is_refused(shop):
    with pytest.raises(PayloadError, match=r"on_success"):
        call(shop, "sales", run_config(on_success=print))


def test_the_retry_of_a_run_config_becomes_the_jobs(shop):
    given = type(run_config()).from_dict({"retry": {"max_retries": 5}})
    assert call(shop, "sales", given).options.max_attempts == 6


def test_no_retries_said_in_a_run_config_is_one_attempt(shop):
    retry = pytest.importorskip("flowerpower.cfg.pipeline.run").RetryConfig(max_retries=0)
    assert call(shop, "sales", run_config(retry=retry)).options.max_attempts == 1


def test_something_else_is_no_run_config(shop):
    with pytest.raises(InvalidJobError, match=r"run_config is a int"):
        call(shop, "sales", 3)


# -- retries --------------------------------------------------------------------------------------------------------


def test_the_pipelines_own_retry_counts_where_nothing_was_said(shop):
    options = call(shop, "sales").options
    assert (options.max_attempts, options.backoff) == (
        5,
        RetryPolicy(base_s=3.0, cap_s=600.0, factor=2.0, jitter=1 / 3),
    )


def test_a_pipeline_without_retry_leaves_it_to_the_defaults(shop):
    options = call(shop, "bare").options
    assert (options.max_attempts, options.backoff) == (None, None)


def test_a_retry_keyword_wins_over_the_pipelines(shop):
    assert call(shop, "sales", retry={"max_retries": 0}).options.max_attempts == 1


def test_a_job_option_wins_over_both(shop):
    assert call(shop, "sales", retry={"max_retries": 0}, max_attempts=9).options.max_attempts == 9


def test_the_waits_are_those_of_flowerpower():
    policy = retries_of({"retry_delay": 2.0, "jitter_factor": 0.5}).backoff
    assert policy is not None
    assert [policy.delay_s(2, lambda: 0.0), policy.delay_s(2, lambda: 1.0)] == pytest.approx([4.0, 6.0])


def test_exceptions_are_known_by_their_class_names():
    given = {"retry_exceptions": ["requests.exceptions.HTTPError", TimeoutError]}
    assert retries_of(given).backoff.retry_on == ("HTTPError", "TimeoutError")


def test_exception_itself_means_all():
    assert retries_of({"retry_exceptions": ["Exception"]}).backoff.retry_on == ()


def test_an_unknown_retry_field_is_refused():
    with pytest.raises(InvalidJobError, match=r"'retries'"):
        retries_of({"retries": 3})


@pytest.mark.parametrize("value", [-1, "3", True])
def test_a_number_of_retries_that_makes_no_sense_is_refused(value):
    with pytest.raises(InvalidJobError, match=r"retry\.max_retries"):
        retries_of({"max_retries": value})


# -- types ----------------------------------------------------------------------------------------------------------


class Unknown:
    """A class that msgspec cannot build."""


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("2013-01-02", date, date(2013, 1, 2)),
        ("1.10", Decimal, Decimal("1.10")),
        ("3", int, 3),
        (["2013-01-02"], list[date], [date(2013, 1, 2)]),
        ({"a": "1.5"}, dict[str, Decimal], {"a": Decimal("1.5")}),
        (None, date | None, None),
        ([1, 2], tuple[int, int], (1, 2)),
        ("data/x.csv", Path, Path("data/x.csv")),
        (date(2013, 1, 2), date, date(2013, 1, 2)),
        ("left", Unknown, "left"),
        (["left"], list[Unknown], ["left"]),
        ("left", "a name", "left"),
    ],
)
def test_an_input_gets_its_declared_type_back(value, type_, expected):
    assert restored({"x": value}, {"x": type_}) == {"x": expected}


def test_an_input_that_does_not_fit_its_type_is_named():
    with pytest.raises(InvalidPipelineError, match=r"input 'day' is 'soon', .*declares it as date"):
        restored({"day": "soon"}, {"day": date})


def test_a_setting_may_name_a_variable_of_the_workers_environment(monkeypatch):
    monkeypatch.setenv("TRACKER_KEY", "s3cret")
    assert unveiled({"a": {"api_key": "env:TRACKER_KEY"}}, "cfg") == {"a": {"api_key": "s3cret"}}


def test_a_variable_that_the_worker_lacks_is_told():
    with pytest.raises(InvalidPipelineError, match=r"cfg\.a\.api_key names .*PENSTOCK_NOT_SET"):
        unveiled({"a": {"api_key": "env:PENSTOCK_NOT_SET"}}, "cfg")


# -- the graph ------------------------------------------------------------------------------------------------------


class Node:
    def __init__(self, name, *dependencies):
        self.name = name
        self.dependencies = dependencies


class Graph:
    """As much of a Hamilton Driver as `check_graph` looks at before it asks Hamilton."""

    def __init__(self, *nodes):
        self.graph = types.SimpleNamespace(nodes={node.name: node for node in nodes})

    def validate_execution(self, *_args, **_kwargs):
        pass


def loop():
    a, b = Node("a"), Node("b")
    a.dependencies, b.dependencies = (b,), (a,)
    return Graph(a, b, Node("c", a))


def test_a_cycle_is_refused_before_it_runs():
    with pytest.raises(InvalidPipelineError, match=r"a cycle: (a -> b -> a|b -> a -> b)"):
        check_graph(loop(), ["c"], {}, {})


def test_an_override_breaks_a_cycle():
    check_graph(loop(), ["c"], {}, {"a": 1})


def test_an_unknown_variable_is_refused_with_the_nearest_known():
    with pytest.raises(InvalidPipelineError, match=r"no variable 'totl'. Did you mean 'total'"):
        check_graph(Graph(Node("total")), ["totl"], {}, {})


# -- news of nodes --------------------------------------------------------------------------------------------------


@pytest.fixture
def news():
    return []


@pytest.fixture
def watch(news):
    return NodeWatch("job", 1, news.append)


def progress(news):
    return [(n.nodes_done, n.nodes_total) for n in news if isinstance(n, Progress)]


def test_progress_counts_nodes_done_of_all(watch, news):
    watch.graph_started(["a", "b"])
    for name in ("a", "b"):
        watch.node_started(name)
        watch.node_finished(name)
    assert progress(news) == [(0, 2), (1, 2), (2, 2)]


def test_an_overridden_node_is_not_counted(watch, news):
    watch.graph_started(["a", "b"], overridden=["a"])
    watch.node_started("b")
    watch.node_finished("b")
    assert progress(news)[-1] == (1, 1)


def test_items_of_one_node_count_once(watch, news):
    watch.graph_started(["item", "total"])
    for n in range(100):
        watch.node_started("item", f"block.{n}")
        watch.node_finished("item", f"block.{n}")
    assert progress(news)[-1] == (1, 2)


def test_a_thousand_items_are_a_few_reports(watch, news):
    watch.graph_started(["item"])
    for n in range(1000):
        watch.node_started("item", f"block.{n}")
        watch.node_finished("item", f"block.{n}")
    watch.graph_ended()
    assert len(news) < 50


def test_the_last_report_of_a_node_holds_the_time_of_all_its_items(watch, news):
    watch.graph_started(["item"])
    for n in range(3):
        watch.node_started("item", f"block.{n}")
        watch.node_finished("item", f"block.{n}")
    first = next(n for n in news if isinstance(n, NodeRun) and n.state == "succeeded")
    watch.graph_ended()
    assert news[-1].elapsed_s > first.elapsed_s


def test_the_failing_node_is_marked_on_its_exception(watch):
    error = ValueError("boom")
    watch.graph_started(["a"])
    watch.node_started("a")
    watch.node_finished("a", error=error)
    assert error.penstock_node == "a"


def test_a_failed_node_is_told_with_its_error(watch, news):
    watch.graph_started(["a"])
    watch.node_started("a")
    watch.node_finished("a", error=ValueError("boom"))
    assert (news[-1].state, news[-1].error) == ("failed", "ValueError: boom")


def test_news_that_cannot_be_passed_on_never_fail_a_node():
    def refuse(_report):
        raise OSError("the pipe is gone")

    watch = NodeWatch("job", 1, refuse)
    watch.graph_started(["a"])
    watch.node_started("a")
    watch.node_finished("a")
    assert watch.failed_node is None


def test_a_flowerpower_target_is_no_path(shop):
    assert call(shop, "sales").spec.target == FlowerPowerTarget("sales", "shop")
